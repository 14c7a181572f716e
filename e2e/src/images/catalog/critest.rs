//! Stand-ins for the images of the CRI validation suite (cri-tools 1.36).
//!
//! Owns their list: the names are those that `pkg/validate` and `pkg/framework` pull, without the registry's host. One name there
//! is a digest (`test-image-digest`): nobody but its owner can make that one.

use super::super::builder::{ImageBuilder, architecture};
use super::super::debian::{package, run};
use super::super::layer::{Entry, Kind};
use super::super::tree::Tree;
use super::{Loader, indexed};
use crate::registry::Store;
use anyhow::{Context, Result};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

const STAGING: &str = "k8s-staging-cri-tools";
const E2E: &str = "e2e-test-images";

const NGINX_CONF: &str = "user www-data;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 128; }
http {
    access_log off;
    server { listen PORT; root /usr/share/nginx/html; }
}
";

const NONEWPRIVS: &str = r#"#include <stdio.h>
#include <unistd.h>
int main(void) { printf("Effective uid: %d\n", (int)geteuid()); return 0; }
"#;

const PAUSE: &str = r"#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void) {
  signal(SIGINT, end);
  signal(SIGTERM, end);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
";

/// Makes them all.
pub(super) fn build(
    cache: &Path,
    store: &Store,
    tree: &Tree,
    busybox: &ImageBuilder,
) -> Result<()> {
    users(store, busybox)?;
    test_images(store, busybox)?;
    web_servers(cache, store, tree, busybox)?;
    nonewprivs(store, busybox)?;
    pause(store)
}

fn users(store: &Store, busybox: &ImageBuilder) -> Result<()> {
    for (name, user) in [
        ("user-uid", "1002"),
        ("user-username", "www-data"),
        ("user-uid-group", "1003:1004"),
        ("user-username-group", "www-data:1004"),
    ] {
        let image = busybox.clone().set("User", user);
        indexed(store, &image, &format!("{STAGING}/test-image-{name}"), &["latest"])?;
    }
    let predefined = busybox
        .clone()
        .layer(|layer| {
            layer.file(
                "etc/passwd",
                format!("{}default-user:x:1000:1000::/home:/bin/sh\n", super::PASSWD),
            );
            let group = "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n";
            layer.file("etc/group", format!("{}{group}", super::GROUP));
        })?
        .set("User", "1000");
    indexed(store, &predefined, &format!("{STAGING}/test-image-predefined-group"), &["latest"])?;
    Ok(())
}

/// Images that differ in one file, and one with three tags.
fn test_images(store: &Store, busybox: &ImageBuilder) -> Result<()> {
    for (name, tags) in [
        ("test-image-latest", vec!["latest"]),
        ("test-image-1", vec!["latest"]),
        ("test-image-2", vec!["latest"]),
        ("test-image-3", vec!["latest"]),
        ("test-image-tags", vec!["1", "2", "3"]),
        ("test-image-tag", vec!["test"]),
        ("test-image-tag", vec!["all"]),
    ] {
        let file = format!("{name}-{}", tags.concat());
        let image = busybox.clone().layer(|layer| {
            layer.file(&file, file.as_str());
        })?;
        indexed(store, &image, &format!("{STAGING}/{name}"), &tags)?;
    }
    Ok(())
}

fn web_servers(cache: &Path, store: &Store, tree: &Tree, busybox: &ImageBuilder) -> Result<()> {
    let loader = Loader::new(cache)?;
    let nginx = package(cache, "nginx")?.join("usr/sbin/nginx");
    let start = vec!["nginx", "-g", "daemon off;"];
    let hostnet = format!("{STAGING}/hostnet-nginx-{}", architecture());
    for (repository, tags, port) in [
        (format!("{E2E}/nginx"), vec!["1.14-2", "1.14-4", "latest"], "80"),
        ("library/nginx".to_owned(), vec!["latest"], "80"),
        (hostnet, vec!["latest"], "12003"),
    ] {
        let mut with_nginx = tree.clone();
        with_nginx.copy_file(&nginx, "usr/sbin/nginx")?;
        loader.add_libraries(&mut with_nginx, &nginx)?;
        with_nginx.directory("var/log/nginx", 0o755).directory("var/lib/nginx", 0o755);
        with_nginx.file("etc/nginx/nginx.conf", NGINX_CONF.replace("PORT", port), 0o644);
        with_nginx.file("usr/share/nginx/html/index.html", "<h1>Welcome to nginx!</h1>\n", 0o644);
        let image = ImageBuilder::new().with(&with_nginx.layer())?.set("Cmd", start.clone());
        indexed(store, &image.set("StopSignal", "SIGQUIT"), &repository, &tags)?;
    }
    let httpd = busybox
        .clone()
        .layer(|layer| {
            let script = "#!/bin/sh\necho 'httpd: listening on port 80'\nexec busybox httpd -f -p 80 -h /var/www\n";
            layer.program("usr/bin/httpd-foreground", script);
            layer.file("var/www/index.html", "<html><body><h1>It works!</h1></body></html>\n");
        })?
        .set("Cmd", vec!["/usr/bin/httpd-foreground"]);
    indexed(store, &httpd, &format!("{E2E}/httpd"), &["2.4.39-4", "2.4.38-4"])?;
    Ok(())
}

fn nonewprivs(store: &Store, busybox: &ImageBuilder) -> Result<()> {
    let program = compile(NONEWPRIVS)?;
    let image = busybox
        .clone()
        .layer(|layer| {
            layer.entry(Entry::new("nnp", Kind::File(program), 0o4755));
        })?
        .set("Cmd", vec!["/nnp"]);
    indexed(store, &image, &format!("{E2E}/nonewprivs"), &["1.3"])?;
    Ok(())
}

/// For runtimes that need one; each version an image of its own.
fn pause(store: &Store) -> Result<()> {
    let program = compile(PAUSE)?;
    for version in ["3.9", "3.10", "3.10.1", "3.10.2"] {
        let image = ImageBuilder::new()
            .layer(|layer| {
                layer.program("pause", program.clone()).file("version", version);
            })?
            .set("Entrypoint", vec!["/pause"])
            .set("User", "65535:65535");
        indexed(store, &image, "pause", &[version])?;
    }
    Ok(())
}

/// A static program from C.
fn compile(source: &str) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().context("make a directory for the compiler")?;
    let (input, output) = (dir.path().join("program.c"), dir.path().join("program"));
    std::fs::File::create(&input)
        .and_then(|mut file| file.write_all(source.as_bytes()))
        .with_context(|| format!("write {}", input.display()))?;
    run(Command::new("gcc")
        .args(["-Os", "-static", "-s", "-Wl,--build-id=none", "-o"])
        .arg(&output)
        .arg(&input))?;
    std::fs::read(&output).with_context(|| format!("read {}", output.display()))
}
