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

/// The bridge plugin, with a subnet that no other test and no daemon's built-in bridge has.
///
/// # Errors
/// If none is left.
pub fn bridge(settings: &Settings) -> Result<String> {
    Ok(format!(
        r#"{{"type": "bridge", "bridge": "{}c", "isGateway": true, "ipMasq": false, "hairpinMode": true,
            "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": {:?}}}]],
                      "routes": [{{"dst": "0.0.0.0/0"}}]}}}}"#,
        settings.tag(),
        settings.dir.join("ipam").display(),
        settings.plugins_subnet()?,
    ))
}

/// What nodes mostly have: the bridge, and host ports by the portmap plugin.
///
/// # Errors
/// If no subnet is left, or the file cannot be written.
pub fn bridge_and_ports(settings: &Settings) -> Result<()> {
    let portmap = r#"{"type": "portmap", "capabilities": {"portMappings": true}}"#;
    configure(settings, &format!("{}, {portmap}", bridge(settings)?))
}
