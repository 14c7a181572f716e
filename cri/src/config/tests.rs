use super::layer::{HandlerFlag, Layer};
use super::load::layer_from_text;
use super::*;
use clap::{Args, CommandFactory, FromArgMatches, Parser};
use std::path::Path;

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    flags: ServeFlags,
}

fn flags(args: &[&str]) -> ServeFlags {
    Flags::try_parse_from(std::iter::once(&"davit").chain(args)).unwrap().flags
}

/// A directory with a configuration file and drop-ins.
fn files(main: &str, drop_ins: &[(&str, &str)]) -> (tempfile::TempDir, String) {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &Path, text: &str| {
        std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    };
    let file = dir.path().join("config.toml");
    write(&file, main);
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    for (name, text) in drop_ins {
        write(&dir.path().join("conf.d").join(name), text);
    }
    (dir, file.to_str().unwrap().to_owned())
}

fn load_with(main: &str, args: &[&str]) -> Result<Config, String> {
    let (_dir, file) = files(main, &[]);
    let mut all = vec!["--config", &file];
    all.extend(args);
    load(&flags(&all)).map_err(|error| error.to_string())
}

#[test]
fn later_files_and_then_flags_have_the_last_word() {
    let drop_ins = [
        ("20-b.toml", "shim_cgroup = 'second'\nmax_log_line = 2048"),
        ("10-a.toml", "shim_cgroup = 'first'\n[bridge]\nname = 'br0'"),
        ("30-c.conf", "this is not read"),
    ];
    let (_dir, file) = files("max_log_line = 4096\n[bridge]\nsubnet = '10.1.0.0/16'", &drop_ins);
    let config = load(&flags(&["--config", &file, "--max-log-line", "8192"])).unwrap();
    assert_eq!(config.shim_cgroup(), "second");
    assert_eq!(config.max_log_line(), 8192);
    assert_eq!(config.bridge().name, "br0");
    assert_eq!(config.bridge().subnet.to_string(), "10.1.0.0/16");
}

#[test]
fn a_default_configuration_says_what_the_code_does() {
    // Lines `#key = …` become keys; lines `# …` stay words.
    let uncommented: String = DEFAULT_TEXT
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    let written = layer_from_text(&uncommented, Path::new("default")).unwrap();
    let none = load_with("", &[]).unwrap();
    assert_eq!(&written, none.as_layer());
    assert_eq!(load_with(DEFAULT_TEXT, &[]).unwrap(), none);
    // The examples must be right too.
    let everything: String = DEFAULT_TEXT
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| rest.starts_with('[') || rest.split(' ').nth(1) == Some("="))
                .unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let everything = layer_from_text(&everything, Path::new("default")).unwrap();
    let full = toml::Table::try_from(everything.under(written)).unwrap();
    for key in keys::fields_of::<Layer>() {
        assert!(full.contains_key(*key), "{key} is missing from the default file");
    }
}

#[test]
fn the_getters_agree_with_the_defaults_that_are_dumped() {
    let config = load_with("", &[]).unwrap();
    let full = config.as_layer();
    assert_eq!(full.root.as_ref().unwrap().as_path(), config.root());
    assert_eq!(full.state.as_ref().unwrap().as_path(), config.state());
    assert_eq!(full.cni_conf_dir.as_ref().unwrap().as_path(), config.cni_conf_dir());
    assert_eq!(full.cni_bin_dir.as_ref().unwrap().as_path(), config.cni_bin_dir());
    assert_eq!(full.netns_dir.as_ref().unwrap().as_path(), config.netns_dir());
    assert_eq!(full.registry_config_dir.as_ref().unwrap().as_path(), config.registry_config_dir());
    assert_eq!(config.cdi_spec_dirs(), [Path::new("/etc/cdi"), Path::new("/var/run/cdi")]);
    assert_eq!(config.listen().len(), 1);
    assert_eq!(config.pod_cgroup_parent().as_str(), "davit-pods");
    assert_eq!(config.handlers().len(), 0);
    assert_eq!(full.streaming_listen.unwrap().0, config.streaming_listen());
    assert_eq!(full.timeouts.stream_idle.unwrap().as_duration(), config.times().stream_idle);
    assert_eq!(
        full.timeouts.stream_creation.unwrap().as_duration(),
        config.times().stream_creation
    );
    assert_eq!(full.sweep_interval.unwrap().as_duration(), config.sweep_interval());
    let events = full.events_retain_count.map(|count| usize::try_from(count).unwrap());
    assert_eq!(events, Some(config.events_retain_count()));
    let limits =
        [config.max_connections(), config.max_calls(), config.max_creations(), config.pods_ahead()];
    let layer::Limits { connections, calls, creations, pods_ahead } = full.limits;
    let dumped =
        [connections, calls, creations, pods_ahead].map(|count| usize::try_from(count.unwrap()));
    assert_eq!(dumped, limits.map(Ok));
    let limits = config.image_limits();
    let images::Images { layer_bytes, layer_entries, layer_ratio } = full.images;
    assert_eq!(
        [layer_bytes, layer_entries, layer_ratio],
        [limits.layer_bytes, limits.entries, limits.ratio].map(Some)
    );
    assert_eq!(full.missing_host_paths, Some(config.missing_host_paths()));
    assert_eq!(config.log_level(), LogLevel::Info);
}

#[test]
fn what_is_dumped_gives_the_same_configuration_again() {
    let args = [
        "--handler=runsc.path=/usr/bin/runsc",
        "--handler=runsc.args=--a --b",
        "--handler=runsc.systemd_cgroup=true",
        "--pidfile=/run/x.pid",
        "--debug",
        "--default-handler=runsc",
        "--metrics-listen=127.0.0.1:9090",
        "--timeouts-cni=90s",
    ];
    let config = load_with("", &args).unwrap();
    let again = load_with(&dump(&config).unwrap(), &[]).unwrap();
    assert_eq!(again, config);
    assert_eq!(again.handlers()["runsc"].args, ["--a", "--b"]);
    assert_eq!(again.times().cni.as_secs(), 90);
    assert_eq!(again.log_level(), LogLevel::Debug);
}

#[test]
fn every_key_is_a_flag_and_every_flag_a_key() {
    let command = Flags::command();
    let mut flags: Vec<String> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .filter(|flag| flag != "config" && flag != "handler" && flag != "help")
        .collect();
    let mut keys: Vec<String> = Vec::new();
    for key in keys::fields_of::<Layer>() {
        let inner: &[&str] = match *key {
            "bridge" => keys::fields_of::<super::bridge::Bridge>(),
            "timeouts" => keys::fields_of::<super::timeouts::Timeouts>(),
            "limits" => keys::fields_of::<super::layer::Limits>(),
            "images" => keys::fields_of::<super::images::Images>(),
            "tls" => keys::fields_of::<super::layer::Tls>(),
            "streaming_tls" => keys::fields_of::<super::layer::StreamingTls>(),
            "metrics_tls" => keys::fields_of::<super::layer::MetricsTls>(),
            "tracing" => keys::fields_of::<super::layer::Tracing>(),
            "handlers" => continue,
            _ => &[],
        };
        let dashed = key.replace('_', "-");
        if inner.is_empty() {
            keys.push(dashed);
        } else {
            keys.extend(inner.iter().map(|field| format!("{dashed}-{}", field.replace('_', "-"))));
        }
    }
    flags.sort();
    keys.sort();
    assert_eq!(flags, keys);
    for field in keys::fields_of::<super::layer::Handler>() {
        let known =
            ["kind=oci", "path=/x", "root=/x", "systemd_cgroup=true", "args=x", "start_fifo=false"];
        assert!(known.iter().any(|known| known.starts_with(&format!("{field}="))), "{field}");
    }
    for value in
        ["kind=oci", "path=/x", "root=/x", "systemd_cgroup=true", "args=x", "start_fifo=false"]
    {
        format!("name.{value}").parse::<HandlerFlag>().unwrap();
    }
}

#[test]
fn a_refusal_names_source_key_and_value() {
    let long = format!("--state=/{}", "a".repeat(100));
    let long: &[&str] = &[&long];
    let cases: [(&str, &[&str], &[&str]); 38] = [
        ("", long, &["command line", "state", "too long"]),
        ("subnett = 1", &[], &["config.toml", "\"subnett\"", "bridge.subnet"]),
        ("root = 'relative'", &[], &["config.toml:1:8", "root", "\"relative\"", "absolute"]),
        ("root = 3", &[], &["config.toml:1", "root = 3"]),
        ("root = \n", &[], &["config.toml:1", "root ="]),
        ("root = '/a'\nstate = '/a/b'", &[], &["config.toml", "state", "\"/a/b\"", "/a"]),
        ("", &["--root=/run/davit/x"], &["command line", "state"]),
        ("default_handler = 'kata'", &[], &["config.toml", "default_handler", "\"kata\""]),
        ("[handlers.kata]\nkind = 'shim-v2'", &[], &["handlers.kata.kind", "not supported yet"]),
        (
            "[streaming_tls]\nkey = '/k'",
            &[],
            &["config.toml", "streaming_tls", "\"/k\"", "cert and key"],
        ),
        ("listen = ['tcp://0.0.0.0:1']", &[], &["config.toml", "listen", "tcp://0.0.0.0:1", "TLS"]),
        ("", &["--tls-cert=/x"], &["command line", "tls", "\"/x\"", "client_ca"]),
        ("[tls]\nclient_names = ['one']", &[], &["config.toml", "tls", "\"one\"", "client_ca"]),
        ("[tls]\nclient_names = ['*.x']", &[], &["config.toml:2", "*.x", "compared whole"]),
        ("socket_group = 'a b'", &[], &["config.toml:1", "\"a b\"", "group"]),
        ("socket_group = 7", &[], &["config.toml:1", "socket_group = 7"]),
        ("[bridge]\nsubnet = '10.0.0.0/30'", &[], &["bridge.subnet", "10.0.0.0/30", "/8 to /29"]),
        ("[bridge]\nsubnet6 = 'fe80::/64'", &[], &["config.toml", "bridge.subnet6", "fe80::/64"]),
        ("[bridge]\ntable = 'my-table'", &[], &["config.toml", "bridge.table", "my-table"]),
        ("", &["--bridge-mtu=68"], &["command line", "bridge.mtu", "68"]),
        ("[limits]\ncreations = 0", &[], &["config.toml", "limits.creations", "\"0\"", "65536"]),
        ("[limits]\npods_ahead = 65", &[], &["config.toml", "limits.pods_ahead", "\"65\"", "64"]),
        ("", &["--limits-connections=65537"], &["command line", "limits.connections", "65537"]),
        (
            "[images]\nlayer_ratio = 0",
            &[],
            &["config.toml", "images.layer_ratio", "\"0\"", "1 and"],
        ),
        ("", &["--images-layer-bytes=0"], &["command line", "images.layer_bytes", "\"0\""]),
        ("sweep_interval = '0s'", &[], &["config.toml", "sweep_interval", "\"0s\""]),
        ("metrics_interval = '900ms'", &[], &["config.toml", "metrics_interval", "less than a s"]),
        ("", &["--metrics-interval=1ms"], &["command line", "metrics_interval", "\"1ms\""]),
        ("[timeouts]\nstart = '25h'", &[], &["config.toml:2", "start", "\"25h\"", "24h"]),
        ("events_retain_count = 65537", &[], &["events_retain_count", "\"65537\"", "65536"]),
        ("", &["--retain-count=70000"], &["command line", "events_retain_count", "70000"]),
        ("max_log_line = 5", &[], &["max_log_line", "\"5\"", "1024"]),
        ("listen = ['unix:///a', 'unix:///a']", &[], &["listen", "unix:///a", "twice"]),
        ("[metrics_tls]\ncert = '/c'", &[], &["metrics_tls", "\"/c\"", "cert and key"]),
        ("[tracing]\nendpoint = 'https://x:1'", &[], &["endpoint", "https://x:1", "http://"]),
        ("[tracing]\nendpoint = 'localhost:1'", &[], &["localhost:1", "http://HOST:PORT"]),
        ("[tracing]\nsampling = 1.5", &[], &["sampling", "1.5", "between 0 and 1"]),
        ("[tracing]\nsampling = -0.1", &[], &["sampling", "-0.1", "between 0 and 1"]),
    ];
    for (file, args, parts) in cases {
        let error = load_with(file, args).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part:?} is missing from {error:?}");
        }
        assert!(!error.contains('\n'), "{error:?} is more than one line");
    }
}

#[test]
fn traces_go_nowhere_unless_a_collector_is_named() {
    assert_eq!(load_with("", &[]).unwrap().trace_collector(), None);
    let traced = "[tracing]\nendpoint = 'http://[::1]:4317/'\nsampling = 0";
    let config = load_with(traced, &[]).unwrap();
    assert_eq!(config.trace_collector(), Some("http://[::1]:4317"));
    assert!(config.trace_share().abs() < f64::EPSILON);
    let config = load_with(traced, &["--tracing-sampling=0.25"]).unwrap();
    assert!((config.trace_share() - 0.25).abs() < f64::EPSILON);
}

#[test]
fn a_start_may_take_as_long_as_any_command_unless_it_has_a_time_of_its_own() {
    let times = |config: Config| {
        let times = config.times();
        (times.start.as_secs(), times.runtime.as_secs())
    };
    let cases: [(&str, &[&str], (u64, u64)); 5] = [
        ("", &[], (60, 60)),
        ("[timeouts]\nruntime = '5m'", &[], (300, 300)),
        ("[timeouts]\nstart = '20s'", &[], (20, 60)),
        ("[timeouts]\nstart = '20s'", &["--timeouts-runtime=2m"], (20, 120)),
        ("[timeouts]\nstart = '20s'\nruntime = '5s'", &["--start-timeout=30s"], (30, 5)),
    ];
    for (file, args, expected) in cases {
        let config = load_with(file, args).unwrap();
        let dumped = load_with(&dump(&config).unwrap(), &[]).unwrap();
        assert_eq!(times(config), expected, "{file} {args:?}");
        assert_eq!(times(dumped), expected, "{file} {args:?}");
    }
}

#[test]
fn counters_are_not_told_unless_it_is_said_how_often() {
    assert_eq!(load_with("", &[]).unwrap().metrics_interval(), None);
    let config = load_with("metrics_interval = '1s'", &[]).unwrap();
    assert_eq!(config.metrics_interval().map(|every| every.as_secs()), Some(1));
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let error = load(&flags(&["--config", "/nonexistent/davit.toml"])).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/davit.toml"));
}

#[test]
fn tls_makes_any_address_acceptable() {
    let tls = "[tls]\ncert = '/c'\nkey = '/k'\nclient_ca = '/a'";
    let config = load_with(&format!("listen = ['tcp://0.0.0.0:1']\n{tls}"), &[]).unwrap();
    assert_eq!(config.tls().unwrap().client_ca.as_deref(), Some(Path::new("/a")));
    assert!(load_with("listen = ['tcp://127.0.0.1:1']", &[]).unwrap().tls().is_none());
}

#[test]
fn streams_may_be_served_anywhere_and_with_tls_that_asks_for_no_certificate() {
    let tls = "[streaming_tls]\ncert = '/c'\nkey = '/k'";
    let config = load_with(
        &format!("streaming_listen = '0.0.0.0:10010'\n{tls}"),
        &["--timeouts-stream-idle=1m"],
    );
    let config = config.unwrap();
    assert_eq!(config.streaming_listen().to_string(), "0.0.0.0:10010");
    assert_eq!(config.streaming_tls().unwrap().client_ca, None);
    assert_eq!(config.times().stream_idle.as_secs(), 60);
    assert!(load_with("", &[]).unwrap().streaming_tls().is_none());
}

#[test]
fn only_the_log_and_who_may_call_change_while_davit_runs() {
    let running = load_with("", &[]).unwrap();
    let quiet = load_with("log_level = 'error'\ndebug = true", &[]).unwrap();
    assert!(unchangeable(&running, &quiet).is_empty());
    let tls = "[tls]\ncert = '/c'\nkey = '/k'\nclient_ca = '/a'\n";
    let (any, one) = (load_with(tls, &[]), load_with(tls, &["--tls-client-names=one"]));
    let (any, one) = (any.unwrap(), one.unwrap());
    assert_eq!(one.tls().unwrap().client_names[0].as_str(), "one");
    assert!(unchangeable(&any, &one).is_empty() && unchangeable(&one, &any).is_empty());
    let moved = load_with("root = '/x'\n[bridge]\nname = 'y'\n[handlers.z]\npath = '/z'", &[]);
    assert_eq!(unchangeable(&running, &moved.unwrap()), ["bridge.name", "handlers.z.path", "root"]);
}

#[test]
fn handler_flags_that_make_no_sense_are_refused() {
    for text in [
        "crun",
        "crun=x",
        "crun.path",
        "crun.path=x",
        "crun.pth=/x",
        "crun.systemd_cgroup=1",
        ".path=/x",
    ] {
        assert!(text.parse::<HandlerFlag>().is_err(), "{text}");
    }
}

#[test]
fn help_names_what_every_flag_is() {
    let command = ServeFlags::augment_args(clap::Command::new("davit"));
    for arg in command.get_arguments() {
        assert!(arg.get_help().is_some(), "{}", arg.get_id());
    }
    let matches = command.get_matches_from(["davit"]);
    assert_eq!(ServeFlags::from_arg_matches(&matches).unwrap(), ServeFlags::default());
}
