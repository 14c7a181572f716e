//! What `davit version` tells of the program's making: the commit that it is of, and the compiler.
//!
//! Owns two variables of the build, `DAVIT_BUILD_COMMIT` and `DAVIT_BUILD_RUSTC`. Whoever packages from an archive, where there is no repository, may give the commit
//! as `DAVIT_COMMIT`; else it is unknown. There is no date, so the same sources give the same program; and only what says which commit is checked out is
//! watched, so that nothing is built anew without need.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    tell("rerun-if-changed=build.rs");
    tell("rerun-if-env-changed=DAVIT_COMMIT");
    let given = std::env::var("DAVIT_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(checked_out).unwrap_or_else(|| "unknown".to_owned());
    tell(&format!("rustc-env=DAVIT_BUILD_COMMIT={}", plain(&commit)));
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = said(Command::new(compiler).arg("--version")).unwrap_or_default();
    let version = version.strip_prefix("rustc ").unwrap_or("unknown");
    tell(&format!("rustc-env=DAVIT_BUILD_RUSTC={}", plain(version)));
}

fn tell(directive: &str) {
    println!("cargo:{directive}");
}

/// The commit of the repository that these sources are of: one that merely holds their archive somewhere is not asked.
fn checked_out() -> Option<String> {
    let top = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR")?).parent()?.canonicalize().ok()?;
    let git = |args: &[&str]| said(Command::new("git").arg("-C").arg(&top).args(args));
    let of = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?;
    if of != top {
        return None;
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    let names = ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref());
    for name in names {
        let Some(path) = git(&["rev-parse", "--git-path", name]) else { continue };
        let path = top.join(path);
        // A file that is not there would have cargo build anew each time.
        if path.exists() {
            tell(&format!("rerun-if-changed={}", path.display()));
        }
    }
    Some(commit)
}

/// What a program says, if it ends well; without the end of its line.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// One line, whatever it was.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}
