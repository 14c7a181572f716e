//! A short soak; hack/soak does long ones.

use anyhow::{Result, ensure};
use davit_e2e::soak::{Options, run};

#[test]
fn sixty_lives_leave_the_daemon_as_it_was() -> Result<()> {
    let samples = run(&Options { cycles: 60, samples: 3, workers: 2, ..Options::default() })?;
    println!("{samples}");
    ensure!(samples.growth().is_empty(), "{samples}\n{}", samples.growth().join("\n"));
    Ok(())
}
