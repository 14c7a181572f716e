//! Configurations of real CNI plugins, Debian's, for a daemon of a test's own.
//!
//! Owns the files in the daemon's CNI directory and the names in them: the bridge and the leases' directory are the test's own. A link
//! that a plugin leaves, as the bridge plugin does with its bridge, is taken away with all that bears the test's name.

use crate::daemon::Settings;
use crate::registry::write_whole;
use anyhow::Result;
use std::path::PathBuf;

/// A network of these plugins, JSON objects with commas between them.
///
/// # Errors
/// If the file cannot be written.
pub fn configure(settings: &Settings, plugins: &str) -> Result<()> {
    let json = format!(
        r#"{{"cniVersion": "1.0.0", "name": "{}", "plugins": [{plugins}]}}"#,
        settings.tag()
    );
    write_whole(&file(settings), json.as_bytes())
}

/// Where a network's configuration is.
#[must_use]
pub fn file(settings: &Settings) -> PathBuf {
    settings.cni_conf_dir.join("10-test.conflist")
}

/// The bridge plugin, with a subnet that no daemon's built-in bridge uses: drawn from the test's name.
#[must_use]
pub fn bridge(settings: &Settings) -> String {
    format!(
        r#"{{"type": "bridge", "bridge": "{}c", "isGateway": true, "ipMasq": false, "hairpinMode": true,
            "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "10.214.{}.0/24"}}]],
                      "routes": [{{"dst": "0.0.0.0/0"}}]}}}}"#,
        settings.tag(),
        settings.dir.join("ipam").display(),
        settings.tag().bytes().fold(0_u8, u8::wrapping_add),
    )
}

/// What nodes mostly have: the bridge, and host ports by the portmap plugin.
///
/// # Errors
/// If the file cannot be written.
pub fn bridge_and_ports(settings: &Settings) -> Result<()> {
    let portmap = r#"{"type": "portmap", "capabilities": {"portMappings": true}}"#;
    configure(settings, &format!("{}, {portmap}", bridge(settings)))
}
