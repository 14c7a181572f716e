//! Figures kept in a document: those of the last run, and below them those of the run before.
//!
//! Owns three marks in that document and what stands between them; all else there is its authors'.

use anyhow::{Context, Result, ensure};

const LAST: &str = "<!-- the last run -->";
const BEFORE: &str = "<!-- the run before -->";
const END: &str = "<!-- the end of the runs -->";

/// The document with these figures as those of the last run; what was there becomes the run before.
///
/// # Errors
/// If the marks are not there, once each and in their order.
pub fn keep(document: &str, figures: &str) -> Result<String> {
    for mark in [LAST, BEFORE, END] {
        ensure!(document.matches(mark).count() == 1, "{mark} is not there once");
    }
    let (above, rest) = document.split_once(LAST).context("the first mark")?;
    let (last, rest) = rest.split_once(BEFORE).context("the second mark comes before the first")?;
    let (_, below) = rest.split_once(END).context("the third mark comes before the second")?;
    let figures = figures.trim();
    Ok(format!("{above}{LAST}\n\n{figures}\n\n{BEFORE}{last}{END}{below}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_becomes_the_one_before() -> Result<()> {
        let empty = format!("# Title\n\n{LAST}\n\n{BEFORE}\n\n{END}\n\nMore.\n");
        let first = keep(&empty, "one\n")?;
        assert_eq!(first, format!("# Title\n\n{LAST}\n\none\n\n{BEFORE}\n\n{END}\n\nMore.\n"));
        let second = keep(&first, "two")?;
        let both = format!("# Title\n\n{LAST}\n\ntwo\n\n{BEFORE}\n\none\n\n{END}\n\nMore.\n");
        assert_eq!(second, both);
        assert_eq!(
            keep(&second, "three")?,
            both.replace("one", "TWO").replace("two", "three").replace("TWO", "two")
        );
        for wrong in ["", LAST, &format!("{BEFORE}{LAST}{END}"), &format!("{LAST}{END}{BEFORE}")] {
            assert!(keep(wrong, "x").is_err(), "{wrong}");
        }
        Ok(())
    }
}
