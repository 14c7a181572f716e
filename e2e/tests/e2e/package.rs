//! The Debian package, with Debian's own dpkg in a system of the test's own: it installs, upgrades, goes, and what is somebody else's stays.

use davit_e2e::chroot::Chroot;
use davit_e2e::prelude::*;
use davit_e2e::registry::write_whole;
use davit_e2e::tools;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

const CONFIG: &str = "/etc/davit/config.toml";
const UNIT: &str = "/usr/lib/systemd/system/davit.service";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/davit.service";
/// Some of what it brings, and with which rights.
const FILES: [(&str, u32); 15] = [
    ("/usr/bin/davit", 0o755),
    ("/usr/bin/davit-shim", 0o755),
    (UNIT, 0o644),
    (CONFIG, 0o644),
    ("/usr/share/man/man1/davit.1.gz", 0o644),
    ("/usr/share/man/man1/davit-serve.1.gz", 0o644),
    ("/usr/share/bash-completion/completions/davit", 0o644),
    ("/usr/share/zsh/vendor-completions/_davit", 0o644),
    ("/usr/share/fish/vendor_completions.d/davit.fish", 0o644),
    ("/usr/share/doc/davit/copyright", 0o644),
    ("/usr/share/doc/davit/libraries.gz", 0o644),
    ("/usr/share/doc/davit/changelog.Debian.gz", 0o644),
    ("/usr/share/doc/davit/startup.md", 0o644),
    ("/usr/share/doc/davit/examples/hosts.toml", 0o644),
    ("/usr/share/doc/davit/examples/crictl.yaml", 0o644),
];
/// What dpkg and what it starts write down for themselves.
const BOOKS: [&str; 4] = ["/var/lib/dpkg/", "/var/log/", "/var/cache/", "/var/lib/systemd/"];
/// An address is asked for when somebody packs (DEBEMAIL): the project has none to give.
const NO_ADDRESS: &str = "bogus-mail-host,bogus-mail-host-in-debian-changelog";

fn pack(directory: &Path) -> Result<PathBuf> {
    let mut pack = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/package"));
    pack.arg("--bin-dir").arg(tools::binaries()?).arg("--output").arg(directory);
    pack.args(["--revision", "7", "--fast"]).env_remove("DEBEMAIL");
    let said = tools::run(&mut pack)?;
    let path = PathBuf::from(said.lines().last().context("it says where the package is")?);
    ensure!(path.starts_with(directory) && path.is_file(), "{}", path.display());
    Ok(path)
}

/// The same as an earlier version had it, with another default.
fn older(package: &Path, directory: &Path) -> Result<PathBuf> {
    let (tree, older) = (directory.join("tree"), directory.join("older.deb"));
    tools::run(Command::new("dpkg-deb").arg("-R").arg(package).arg(&tree))?;
    let control = tree.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control)?;
    let version = text.lines().find(|line| line.starts_with("Version: ")).context("a version")?;
    ensure!(version.ends_with("-7"), "{version}");
    write_whole(&control, text.replace(version, "Version: 0.0.1-1").as_bytes())?;
    let config = tree.join(CONFIG.trim_start_matches('/'));
    let text = std::fs::read_to_string(&config)?;
    write_whole(&config, format!("# Of an older version.\n{text}").as_bytes())?;
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644))?;
    let mut build = Command::new("dpkg-deb");
    build.args(["-Zgzip", "-z1", "--root-owner-group", "-b"]).arg(&tree).arg(&older);
    tools::run(&mut build)?;
    Ok(older)
}

fn dpkg(system: &Chroot, arguments: &[&str]) -> Result<Output> {
    system.run("dpkg", arguments)
}

/// The package's file, inside.
fn brought_in(system: &Chroot, package: &Path) -> Result<String> {
    let name = package.file_name().context("a package has a name")?.to_string_lossy().into_owned();
    let inside = format!("/tmp/{name}");
    std::fs::copy(package, system.path(&inside))?;
    Ok(inside)
}

#[test]
fn the_debian_package_installs_upgrades_and_goes_cleanly() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("dt").tempdir_in("/tmp")?;
    let package = pack(directory.path())?;
    let older = older(&package, directory.path())?;
    no_fault_of_debians_policy(&package)?;
    let system = Chroot::new()?;
    let (package, older) = (brought_in(&system, &package)?, brought_in(&system, &older)?);
    let before = system.changed()?;
    installed(&system, &older)?;
    upgraded(&system, &package)?;
    removed(&system)?;
    purged(&system)?;
    let added = |path: &&String| !before.contains(*path);
    let books = |path: &&String| BOOKS.iter().any(|book| path.starts_with(book));
    let after = system.changed()?;
    let left: Vec<_> = after.iter().filter(added).filter(|path| !books(path)).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    let ours: Vec<_> = after.iter().filter(added).filter(|path| path.contains("davit")).collect();
    ensure!(ours.is_empty(), "left behind: {ours:?}");
    Ok(())
}

fn no_fault_of_debians_policy(package: &Path) -> Result<()> {
    let mut lintian = Command::new(tools::installed("lintian")?);
    lintian.args(["--fail-on", "error,warning", "--allow-root", "--suppress-tags", NO_ADDRESS]);
    tools::run(lintian.arg(package)).map(drop)
}

fn installed(system: &Chroot, package: &str) -> Result<()> {
    dpkg(system, &["-i", package])?;
    for (path, mode) in FILES {
        let meta = std::fs::symlink_metadata(system.path(path)).with_context(|| path.to_owned())?;
        let owner = (std::os::unix::fs::MetadataExt::uid(&meta), meta.permissions().mode());
        assert_eq!(owner, (0, 0o100_000 | mode), "{path}");
    }
    let told = |program: &str, arguments: &[&str]| -> Result<String> {
        Ok(String::from_utf8_lossy(&system.run(program, arguments)?.stdout).trim().to_owned())
    };
    ensure!(told("davit", &["--version"])?.starts_with("davit "));
    ensure!(told("davit", &["config", "check"])?.contains("the configuration is right"));
    ensure!(told("man", &["-w", "davit-serve"])?.ends_with("davit-serve.1.gz"));
    told("bash", &["-n", "/usr/share/bash-completion/completions/davit"])?;
    assert_eq!(
        told("dpkg-query", &["-W", "-f", "${Conffiles}", "davit"])?.split(' ').next(),
        Some(CONFIG)
    );
    let verified = system.run("systemd-analyze", &["verify", "--man=no", UNIT])?;
    ensure!(verified.stderr.is_empty(), "{}", tools::describe(&verified));
    ensure!(system.path(WANTED).is_symlink(), "the service is not enabled");
    assert_eq!(system.asked()?, ["daemon-reload", "start davit.service"]);
    Ok(())
}

/// What somebody has changed stays, what came with the package changes, and the daemon is restarted, not stopped for as long as it takes.
fn upgraded(system: &Chroot, package: &str) -> Result<()> {
    let config = system.path(CONFIG);
    let text = std::fs::read_to_string(&config)?;
    ensure!(text.starts_with("# Of an older version.\n"), "{text}");
    let edited = text.replacen("# Of an older version.\n", "max_log_line = 4096\n", 1);
    write_whole(&config, edited.as_bytes())?;
    dpkg(system, &["--force-confdef", "--force-confold", "-i", package])?;
    assert_eq!(std::fs::read_to_string(&config)?, edited);
    let fresh = std::fs::read_to_string(system.path("/etc/davit/config.toml.dpkg-dist"))?;
    assert_eq!(fresh, String::from_utf8(system.run("davit", &["config", "default"])?.stdout)?);
    let dump = String::from_utf8(system.run("davit", &["config", "dump"])?.stdout)?;
    ensure!(dump.contains("max_log_line = 4096"), "{dump}");
    assert_eq!(system.asked()?, ["daemon-reload", "restart davit.service"]);
    Ok(())
}

fn removed(system: &Chroot) -> Result<()> {
    std::fs::create_dir_all(system.path("/run/davit/pods/some"))?;
    let own = system.path("/etc/davit/certs.d/docker.io");
    std::fs::create_dir_all(&own)?;
    std::fs::copy(system.path("/usr/share/doc/davit/examples/hosts.toml"), own.join("hosts.toml"))?;
    let said = dpkg(system, &["-r", "davit"])?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.contains("davit: pods are here and run on without it"), "{said}");
    assert_eq!(system.asked()?, ["stop davit.service", "daemon-reload"]);
    for (path, _) in FILES.iter().filter(|(path, _)| *path != CONFIG) {
        ensure!(!system.path(path).exists(), "{path} is left");
    }
    for path in [CONFIG, "/etc/davit/certs.d/docker.io/hosts.toml", "/run/davit/pods/some"] {
        ensure!(system.path(path).exists(), "{path} has gone");
    }
    Ok(())
}

fn purged(system: &Chroot) -> Result<()> {
    let image = system.path("/var/lib/davit/images/some");
    std::fs::create_dir_all(&image)?;
    let said = dpkg(system, &["-P", "davit"])?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.contains("stay in /var/lib/davit"), "{said}");
    ensure!(image.exists(), "images went with the package");
    ensure!(!system.path("/etc/davit").exists(), "/etc/davit is left");
    std::fs::remove_dir_all(system.path("/var/lib/davit"))?;
    let known = system.command("dpkg-query").args(["-W", "davit"]).output()?;
    ensure!(!known.status.success(), "{}", tools::describe(&known));
    Ok(())
}
