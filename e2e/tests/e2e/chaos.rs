//! A short chaos run; hack/chaos does long ones.

use anyhow::{Result, ensure};
use davit_e2e::chaos::{Options, run};
use std::time::Duration;

fn nothing_is_lost(options: &Options) -> Result<()> {
    let summary = run(options)?;
    println!("{summary}");
    ensure!(summary.losses() == 0, "{summary}");
    ensure!(summary.kills == u64::from(options.kills), "{summary}");
    Ok(())
}

#[test]
fn nothing_is_lost_in_50_kills() -> Result<()> {
    nothing_is_lost(&Options { seed: 51, ..Options::default() })
}

#[test]
fn nothing_is_lost_in_15_kills_with_plugins_on_runc_while_shims_die() -> Result<()> {
    let handler = "runc".to_owned();
    nothing_is_lost(&Options {
        kills: 15,
        seed: 52,
        handler,
        cni: true,
        shim_kills: 40,
        // Other tests keep the machine busy: hack/chaos demands that it takes no more than a second.
        shim_end: Duration::from_secs(10),
        ..Options::default()
    })
}
