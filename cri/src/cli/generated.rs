//! What is made from the definitions of the command line: completions and man pages.

use super::Cli;
use clap::CommandFactory as _;
use clap_complete::Shell;
use std::io;
use std::path::Path;

/// The completions for a shell.
pub(crate) fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "davit", &mut script);
    script
}

/// One page for each command, into a directory that is there.
///
/// # Errors
/// A page can't be written.
pub(crate) fn man(directory: &Path) -> io::Result<()> {
    let mut root = Cli::command();
    root.build();
    pages(&root, "davit", directory)
}

fn pages(command: &clap::Command, name: &str, directory: &Path) -> io::Result<()> {
    let named = command.clone().display_name(name.to_owned());
    let mut page = Vec::new();
    clap_mangen::Man::new(named).title(name.to_owned()).render(&mut page)?;
    let mut file = std::fs::File::create(directory.join(format!("{name}.1")))?;
    io::Write::write_all(&mut file, &page)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, &format!("{name}-{}", below.get_name()), directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command, by its words.
    fn commands(of: &clap::Command, words: &[&str]) -> Vec<Vec<String>> {
        let mut all = vec![words.iter().map(|word| (*word).to_owned()).collect()];
        for below in of.get_subcommands() {
            all.extend(commands(below, &[words, &[below.get_name()]].concat()));
        }
        all
    }

    #[test]
    fn every_command_has_help_that_says_what_it_does() {
        let root = Cli::command();
        let all = commands(&root, &["davit"]);
        assert!(all.len() > 30, "{}", all.len());
        for words in all {
            let line = words.iter().map(std::ffi::OsString::from).chain(["--help".into()]);
            let help = crate::cli::parse(line).unwrap_err();
            assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp, "{words:?}");
            let text = help.to_string();
            assert!(text.contains("Usage:") && text.len() > 100, "{words:?}: {text}");
        }
    }

    #[test]
    fn verbs_on_containers_pods_and_images_have_examples() {
        let root = Cli::command();
        for verb in [
            "ps", "pods", "images", "inspect", "logs", "exec", "attach", "wait", "start", "stop",
            "kill", "pause", "resume", "update", "stats", "top", "rmi", "login", "logout",
            "search", "events", "state",
        ] {
            let command = root.find_subcommand(verb).unwrap_or_else(|| panic!("{verb}"));
            let help = command.clone().render_long_help().to_string();
            assert!(
                help.contains("Example") && help.contains(&format!("davit {verb}")),
                "{verb}: {help}"
            );
        }
    }

    #[test]
    fn completions_and_pages_know_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completion(shell)).unwrap();
            for verb in ["inspect", "checkpoint", "pause", "explain"] {
                assert!(script.contains(verb), "{shell}: {verb}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        man(dir.path()).unwrap();
        for page in ["davit.1", "davit-ps.1", "davit-checkpoint-create.1", "davit-serve.1"] {
            let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}");
        }
    }
}
