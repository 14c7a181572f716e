//! The command line: arguments in, one [`Action`] out.
//!
//! Owns every flag but those of the daemon ([`crate::config::ServeFlags`]). Does nothing itself; an argument too many is an error.

mod container;
mod events;
mod generated;
mod image;
mod listing;
mod stream;
mod usage;

pub(crate) use container::{Ids, InspectArgs, KillArgs, Limits, LogsArgs, StopArgs, UpdateArgs};
pub(crate) use events::EventsArgs;
pub(crate) use generated::{completion, man};
pub(crate) use image::{
    CheckpointCommand, ExplainArgs, ImageCommand, LoginArgs, LogoutArgs, SearchArgs,
};
pub(crate) use listing::{ImagesArgs, InfoArgs, Listing, PodsArgs, PsArgs, Written};
pub(crate) use stream::{AttachArgs, ExecArgs};
pub(crate) use usage::{RmiArgs, StatsArgs, TopArgs};

use crate::client::{Address, DetachKeys, Format, Memory, Port, RunUser, Volume};
use crate::config::ServeFlags;
use crate::wipe::Consent;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Be the daemon.
    Serve(Box<ServeFlags>),
    /// Look at the configuration.
    Config(ConfigAction),
    /// Look whether this machine can run what a daemon with these flags would be asked for.
    Doctor(Format, Box<ServeFlags>),
    /// Remove all that the daemon with these flags has.
    Wipe(Consent, Box<ServeFlags>),
    /// Print the completions for a shell.
    Completion(Shell),
    /// Write the man pages into this directory.
    Man(PathBuf),
    /// Ask the daemon at this address.
    Client(Address, ClientCommand),
}

/// `davit config …`.
#[derive(Debug)]
pub(crate) enum ConfigAction {
    /// Show the defaults.
    Default,
    /// Say whether it is right.
    Check(Box<ServeFlags>),
    /// Show what is in effect.
    Dump(Box<ServeFlags>),
}

/// A Kubernetes container runtime (CRI v1)
#[derive(Debug, Parser)]
#[command(name = "davit", version, disable_help_subcommand = true, args_override_self = false)]
struct Cli {
    /// Where the daemon listens
    #[arg(
        long,
        global = true,
        env = "DAVIT_ADDRESS",
        default_value = "unix:///run/davit/davit.sock",
        value_name = "ADDRESS"
    )]
    address: Address,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be the daemon
    Serve(Box<ServeFlags>),
    /// Show, check or dump the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look whether this machine can run pods, and say what to do about what it lacks
    ///
    /// Looks at the kernel, cgroups, OCI runtimes (by a trial container), network, disks, registries and sockets as the daemon would, whether or not one runs. Takes its
    /// flags, so as to look at the same. Leaves nothing behind.
    #[command(after_help = "Exits with 1 if there is a problem; warnings are none.\n\n\
                      Examples:\n  davit doctor\n  davit doctor --config /etc/davit/new.toml\n  davit doctor --format json")]
    Doctor {
        #[command(flatten)]
        listing: Listing,
        #[command(flatten)]
        flags: Box<ServeFlags>,
    },
    /// End all pods and remove everything that davit has on this node
    ///
    /// The daemon must have ended. Takes its flags, so as to find what is its.
    Wipe {
        /// Don't ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        flags: Box<ServeFlags>,
    },
    /// Print the completions for a shell
    #[command(after_help = "Example:\n  davit completion bash > /etc/bash_completion.d/davit")]
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the man pages
    #[command(hide = true)]
    Man {
        /// Into this directory
        directory: PathBuf,
    },
    #[command(flatten)]
    Client(ClientCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a commented file with every key and its default
    Default,
    /// Say whether a file (and conf.d beside it) is right
    Check {
        /// Instead of /etc/davit/config.toml
        file: Option<PathBuf>,
    },
    /// Print the configuration that `davit serve` with these flags uses
    Dump(Box<ServeFlags>),
}

/// A command that a daemon answers.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Show the versions of this program and of the daemon
    #[command(
        after_help = "Where no daemon answers, this program's part is shown, and the exit code is 1.\n\n\
                      Examples:\n  davit version\n  davit version --format '{{ server.version }}'"
    )]
    Version(Listing),
    /// Show what the daemon is and has, and what this machine lacks
    #[command(
        after_help = "Examples:\n  davit info\n  davit info --debug\n  davit info --format '{{ counters.containers.running }}'\n  davit info --format '{{ warnings | join(\"\\n\") }}'"
    )]
    Info(InfoArgs),
    /// Pull an image
    Pull {
        /// Its name
        image: String,
    },
    /// List the images
    #[command(after_help = listing::TEMPLATES)]
    Images(ImagesArgs),
    /// Make a pod with one container, and run a command in it
    #[command(
        after_help = "The output is kept in logs/<uid of the pod> below the daemon's root until `davit rm` (or --rm) removes it \
                      with the pod.\nExits as the command does; 125 if davit failed, 126 if the command can't be run, 127 if \
                      there is none of its name."
    )]
    Run(Box<RunArgs>),
    /// List the containers that run
    #[command(after_help = listing::TEMPLATES)]
    Ps(PsArgs),
    /// List the pods
    #[command(after_help = listing::TEMPLATES)]
    Pods(PodsArgs),
    /// Show all that is known of containers, pods and images, as JSON
    #[command(
        after_help = "Examples:\n  davit inspect web\n  davit inspect --type image busybox\n  davit inspect -f '{{ info.pid }}' web"
    )]
    Inspect(InspectArgs),
    /// Show what a container has written
    #[command(
        after_help = "Examples:\n  davit logs -f --tail 10 web\n  davit logs --since 10m -t web"
    )]
    Logs(LogsArgs),
    /// Show what has happened to pods, containers and images, and what goes on to happen
    ///
    /// Only what is new, unless --since or --after says from where, or --no-follow asks for all that is stored.
    #[command(after_help = events::HELP)]
    Events(EventsArgs),
    /// Show all that the daemon knows, as JSON
    ///
    /// For debugging: its form is no promise and may change with each version.
    #[command(after_help = "Example:\n  davit state | jq .counters")]
    State,
    /// Run a command in a running container
    #[command(
        after_help = "Exits as the command does; 125 if davit failed, 126 if the command can't be run, 127 if there is none of its name.\n\
                      Whoever leaves by the detach keys ends the command: nobody could come back to it.\n\n\
                      Examples:\n  davit exec web ls /\n  davit exec -it web sh\n  davit exec -u nobody -w /tmp -e A=B web env"
    )]
    Exec(ExecArgs),
    /// Use this terminal for a running container's own process
    #[command(
        after_help = "Exits as the container does, and with 0 when left by the detach keys; the container then goes on.\n\nExamples:\n  davit attach web\n  davit attach --no-stdin --detach-keys ctrl-x web"
    )]
    Attach(AttachArgs),
    /// Wait until containers have ended, and print their exit codes
    #[command(after_help = "Example:\n  davit wait $(davit ps -q --filter label=job=nightly)")]
    Wait(Ids),
    /// Start containers that were made and not started
    #[command(
        after_help = "One that has ended can't be started again: it is made anew.\n\nExample:\n  davit start 3f2a"
    )]
    Start(Ids),
    /// Stop containers: their stop signal, and SIGKILL once the time is up
    #[command(after_help = "Example:\n  davit stop -t 30 web")]
    Stop(StopArgs),
    /// Send containers a signal
    #[command(after_help = "Examples:\n  davit kill web\n  davit kill -s HUP web")]
    Kill(KillArgs),
    /// Freeze containers: nothing in them runs until they are resumed
    #[command(
        after_help = "Works on those of the kubelet, too; to it they run, and what it probes in them fails.\n\nExample:\n  davit pause web"
    )]
    Pause(Ids),
    /// Let frozen containers go on, whoever froze them
    #[command(visible_alias = "unpause", after_help = "Example:\n  davit resume web")]
    Resume(Ids),
    /// Change the limits of containers that live
    #[command(
        after_help = "What is not given stays as it is.\n\nExample:\n  davit update --cpus 0.5 --memory 128m web"
    )]
    Update(UpdateArgs),
    /// Show what containers use
    ///
    /// On a terminal live, as top does; elsewhere one list after the other.
    #[command(
        after_help = "Examples:\n  davit stats\n  davit stats --no-stream web db\n  davit stats --no-stream --format '{{ name }} {{ cpu_percent }}'"
    )]
    Stats(StatsArgs),
    /// Watch what containers and pods use, live
    #[command(
        after_help = "Keys: q, escape and ctrl-c quit; c, m, p, i, n and a sort by CPU, memory, processes, disk, network and name; t switches between \
                            containers and pods.\nWithout colours if NO_COLOR is set; without a terminal, one list.\n\nExample:\n  davit top --sort memory"
    )]
    Top(TopArgs),
    /// Remove images, with all of their names
    #[command(
        after_help = "Containers go on: they keep their layers.\n\nExamples:\n  davit rmi busybox\n  davit rmi --prune"
    )]
    Rmi(RmiArgs),
    /// Write running containers into archives, their memory included, and look after those
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Keep a user's name and password for a registry, once it has taken them
    #[command(
        after_help = "`davit pull` and `davit run` bring them to the registry that they are for. The daemon pulls for the kubelet with those of its own \
                            file (registry_auth_file).\n\nExamples:\n  davit login quay.io\n  davit login -u me --password-stdin quay.io < password"
    )]
    Login(LoginArgs),
    /// Forget what is kept for a registry
    #[command(after_help = "Examples:\n  davit logout quay.io\n  davit logout --all")]
    Logout(LogoutArgs),
    /// List a registry's repositories, by its catalogue
    #[command(
        after_help = "Many public registries have none that they show.\n\nExample:\n  davit search localhost:5000 busy"
    )]
    Search(SearchArgs),
    /// Look into what an image's name means here
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look whether all images are still what was pulled, and whether anything belongs to nobody
    ///
    /// Reads every file of every layer. Exits with 1 if something is wrong.
    Check,
    /// Put right what `davit check` finds
    ///
    /// Removes what belongs to nobody; lets go of broken images and pulls them again, without credentials.
    Repair,
    /// Remove containers (those of `davit run` with their pods) and pods
    Rm {
        /// Running ones too
        #[arg(short, long)]
        force: bool,
        /// Ids, unambiguous beginnings of ids, or names given to `davit run`
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

/// `davit run`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct RunArgs {
    /// Write the container's id to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// The pod's and the container's name; made up unless given
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Set an environment variable, or pass one on by its name alone
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Mount a file or directory of the host
    #[arg(short, long = "volume", value_name = "HOST:CONTAINER[:ro]")]
    pub(crate) volume: Vec<Volume>,
    /// Lead a port of the host into the pod
    #[arg(short, long = "publish", value_name = "[IP:]HOST:CONTAINER[/PROTOCOL]")]
    pub(crate) publish: Vec<Port>,
    /// Remove the container and its pod when the command has ended
    #[arg(long, conflicts_with = "detach")]
    pub(crate) rm: bool,
    /// Print the container's id and leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep standard input open, and pass this program's on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// What to type to leave and have it go on, with -i or -t
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub(crate) detach_keys: DetachKeys,
    /// Limit memory, such as 64m
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<Memory>,
    /// Limit CPU, in CPUs, such as 0.5
    #[arg(long, value_name = "COUNT")]
    pub(crate) cpus: Option<crate::client::Cpus>,
    /// Whom the command runs as; the group by its number
    #[arg(long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<RunUser>,
    /// The pod's host name
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Where the command starts, inside the container
    #[arg(short, long = "workdir", value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Whose network the pod has
    #[arg(long, value_enum, default_value_t = Network::Pod)]
    pub(crate) network: Network,
    /// Allow the container everything
    #[arg(long)]
    pub(crate) privileged: bool,
    /// The image's name; pulled if it is not here
    pub(crate) image: String,
    /// The command and its arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Whose network a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Its own.
    #[value(alias = "bridge")]
    Pod,
    /// The host's.
    Host,
}

/// What these arguments ask for.
///
/// # Errors
/// clap's, with its words; asking for help or the version is one too.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Action, clap::Error> {
    let Cli { address, command } = Cli::try_parse_from(args)?;
    Ok(match command {
        Command::Serve(flags) => Action::Serve(flags),
        Command::Config(ConfigCommand::Default) => Action::Config(ConfigAction::Default),
        Command::Config(ConfigCommand::Check { file }) => {
            let flags = ServeFlags { config: file, ..ServeFlags::default() };
            Action::Config(ConfigAction::Check(Box::new(flags)))
        }
        Command::Config(ConfigCommand::Dump(flags)) => Action::Config(ConfigAction::Dump(flags)),
        Command::Doctor { listing, flags } => Action::Doctor(listing.format, flags),
        Command::Wipe { yes, flags } => {
            Action::Wipe(if yes { Consent::Given } else { Consent::Ask }, flags)
        }
        Command::Completion { shell } => Action::Completion(shell),
        Command::Man { directory } => Action::Man(directory),
        Command::Client(command) => Action::Client(address, command),
    })
}

/// With what code davit ends when it can't make sense of these arguments: 2, or what `davit run` ends with when davit itself fails.
pub(crate) fn refusal_code(args: &[OsString]) -> u8 {
    let mut words = args.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "--address" {
            words.next();
        } else if !word.to_string_lossy().starts_with('-') {
            return if word == "run" || word == "exec" { 125 } else { 2 };
        }
    }
    2
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn run_tells_its_own_mistakes_from_those_of_its_command() {
        let code =
            |line: &str| refusal_code(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(code("davit run --no-such-flag image"), 125);
        assert_eq!(code("davit --address unix:///x run"), 125);
        assert_eq!(code("davit pull run more"), 2);
        assert_eq!(code("davit"), 2);
    }

    fn parse_words(line: &str) -> Result<Action, clap::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_argument_too_many_is_an_error() {
        for line in [
            "davit",
            "davit serve now",
            "davit version now",
            "davit info now",
            "davit pull a b",
            "davit pull",
            "davit images a b",
            "davit ps a",
            "davit pods a",
            "davit rm",
            "davit config",
            "davit config default x",
            "davit config check a b",
            "davit config dump x",
            "davit run",
            "davit nonsense",
            "davit ps --format yaml",
            "davit ps --filter colour=red",
            "davit ps --filter state=tired",
            "davit ps --sort weight",
            "davit ps --last 2 --latest",
            "davit logs --since yesterday-ish x",
            "davit events x",
            "davit events --filter colour=red",
            "davit events --filter type=volume",
            "davit events --since yesterday-ish",
            "davit events --until 10parsecs",
            "davit events --after -1",
            "davit events --format table",
            "davit events --stream=perhaps",
            "davit state now",
            "davit kill -s NOSUCH x",
            "davit update x",
            "davit update --cpus 1",
            "davit inspect --type volume x",
            "davit run -d --rm image",
            "davit run --memory lots image",
            "davit --address nowhere ps",
        ] {
            assert!(parse_words(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_follows_the_image_is_the_commands() {
        let action =
            parse_words("davit run --rm --name n -e A=B -p 80:8080/udp alpine sh -c -x --rm")
                .unwrap();
        let Action::Client(_, ClientCommand::Run(run)) = action else { panic!("{action:?}") };
        assert_eq!(run.image, "alpine");
        assert_eq!(run.command, ["sh", "-c", "-x", "--rm"]);
        assert!(run.rm);
        assert_eq!(run.env, ["A=B"]);
    }

    #[test]
    fn the_address_is_taken_anywhere() {
        for line in ["davit --address unix:///x ps", "davit ps --address unix:///x"] {
            let Ok(Action::Client(address, _)) = parse_words(line) else { panic!("{line}") };
            assert_eq!(address.to_string(), "unix:///x");
        }
    }

    #[test]
    fn a_configuration_can_be_named_in_both_ways() {
        let Ok(Action::Config(ConfigAction::Check(flags))) = parse_words("davit config check /f")
        else {
            panic!()
        };
        assert_eq!(flags.config, Some("/f".into()));
        assert!(matches!(
            parse_words("davit config dump --config /f --root /r --debug"),
            Ok(Action::Config(ConfigAction::Dump(_)))
        ));
        assert!(matches!(
            parse_words("davit serve --listen unix:///a --listen tcp://127.0.0.1:1"),
            Ok(Action::Serve(_))
        ));
    }
}
