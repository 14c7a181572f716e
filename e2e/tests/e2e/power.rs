//! The power goes, at any moment of a pull: afterwards the image is there whole or not at all, and can be pulled. And what has rotted on the disk is found.
//!
//! The root is on a disk of the test's own ([`Disk`]): when it is cut off, what was not synced is gone, as its filesystem would have it. Then everything ends,
//! and the next daemon is in another boot.

use crate::failpoints::{steps, with_failpoints};
use davit_e2e::boot::{self, Run};
use davit_e2e::disk::Disk;
use davit_e2e::host::names_in;
use davit_e2e::prelude::*;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

/// Layers of the image on top of busybox's, and the files in each.
const LAYERS: usize = 4;
const FILES: usize = 40;
/// A file's size, in bytes: all together more than a pull takes no time for.
const SIZE: usize = 128 << 10;
const WITHIN: Duration = Duration::from_secs(60);

/// Bytes that do not repeat, the same each time.
fn content(seed: usize) -> Vec<u8> {
    let mut state = u64::try_from(seed).unwrap_or_default().wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(SIZE).collect()
}

struct Scene<'a> {
    t: &'a Test,
    disk: Disk,
    image: String,
    /// What a pull takes here.
    pull: Duration,
}

/// What became of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    Absent,
}

impl<'a> Scene<'a> {
    /// The root is put on a disk of its own; an image is in the registry, with a list of its files' digests.
    fn new(t: &'a Test) -> Result<Self> {
        // Said when the disk is gone and davit not yet.
        for text in [
            "Input/output error",
            "os error 5",
            "Read-only file system",
            "aside",
            "let go of an image",
        ] {
            t.allow_log(text);
        }
        t.daemon().stop()?;
        std::fs::remove_dir_all(t.settings().root())?;
        let disk = Disk::make(&t.dir.join("disk"), &t.settings().root())?;
        t.daemon().spawn()?;
        let (mut image, mut sums) = (t.busybox()?, String::new());
        for layer in 0..LAYERS {
            let names: Vec<_> =
                (0..FILES).map(|file| (file, format!("data/{layer}/{file}"))).collect();
            for (file, name) in &names {
                let digest = hex::encode(Sha256::digest(content(layer * FILES + file)));
                writeln!(sums, "{digest}  /{name}")?;
            }
            image = image.layer(|tree| {
                for (file, name) in &names {
                    tree.file(name, content(layer * FILES + file));
                }
            })?;
        }
        image = image.layer(|tree| {
            tree.file("sums", sums.as_str());
        })?;
        let image = t.push("power/app", &image)?;
        let begun = Instant::now();
        t.cri.pull(&image)?;
        let pull = begun.elapsed();
        let scene = Self { t, disk, image, pull };
        scene.runs_whole()?;
        scene.forget()?;
        Ok(scene)
    }

    /// A container from it finds every file as it was made.
    fn runs_whole(&self) -> Result<()> {
        let pod = self.t.pod("reader", |_| ())?;
        let (status, lines) = self.t.output(&pod, "main", |c| {
            c.image = Some(davit_e2e::cri::spec(&self.image));
            c.command = sh("sha256sum -c /sums | grep -vc OK$; grep -c . /sums");
        })?;
        // An earlier one of the same name has written to the log, too.
        let said: Vec<_> =
            lines.iter().rev().take(2).rev().map(|line| line.content.as_str()).collect();
        ensure!(said == ["0", &(LAYERS * FILES).to_string()], "torn: {said:?}, {status:?}");
        Ok(self.t.cri.remove_pod(&pod.id)?)
    }

    /// Nothing is wrong, and every layer could be compared with what was pulled.
    fn check_is_clean(&self) -> Result<()> {
        let text = eventually(WITHIN, "all layers can be compared", || {
            let output = self.t.davit(&["check"])?;
            let text = String::from_utf8(output.stdout)?;
            ensure!(output.status.success(), "davit check: {text}");
            Ok((!text.contains("too new")).then_some(text))
        })?;
        ensure!(text.contains("nothing is wrong"), "{text}");
        Ok(())
    }

    fn cut(&self) -> Result<()> {
        self.disk.cut()?;
        boot::end(self.t, Run::Emptied)?;
        self.disk.replug()?;
        self.t.daemon().spawn()
    }

    /// After a start: whole or absent, never anything else; and nothing half-made.
    fn fate(&self) -> Result<Fate> {
        let there = self.t.cri.image(&self.image)?.is_some();
        self.check_is_clean()?;
        if there {
            self.runs_whole()?;
            return Ok(Fate::Whole);
        }
        let root = self.t.settings().root();
        ensure!(self.t.cri.list_images()?.is_empty());
        eventually(WITHIN, "nothing half-made is left", || {
            let images = names_in(&root.join("images"))?;
            let images = images.iter().any(|name| !name.starts_with("broken-"));
            Ok((!images && names_in(&root.join("layers"))?.is_empty()).then_some(()))
        })?;
        Ok(Fate::Absent)
    }

    /// Pulls it again, in any case, and lets it go.
    fn renew(&self) -> Result<()> {
        self.t.cri.pull(&self.image).context("pull it again")?;
        self.runs_whole()?;
        self.forget()
    }

    fn forget(&self) -> Result<()> {
        self.t.cri.remove_image(&self.image)?;
        let layers = self.t.settings().root().join("layers");
        eventually(WITHIN, "its layers are gone", || {
            Ok(names_in(&layers)?.is_empty().then_some(()))
        })
    }

    /// Cuts the power so long after a pull has begun.
    fn cut_after(&self, wait: Duration) -> Result<(bool, Fate)> {
        let answered = std::thread::scope(|scope| {
            let pull = scope.spawn(|| self.t.cri.pull(&self.image));
            pause(wait);
            let answered = pull.is_finished();
            self.cut()?;
            drop(pull.join().unwrap());
            anyhow::Ok(answered)
        })?;
        Ok((answered, self.fate()?))
    }
}

on_one!(an_image_is_whole_or_absent_whenever_the_power_goes, |t| {
    let scene = Scene::new(t)?;
    let mut seen = Vec::new();
    // From its first moments until long after the answer, when the disk has it.
    for eighths in [1, 3, 5, 6, 7, 8, 9, 10, 12, 16, 32] {
        let wait = scene.pull * eighths / 8;
        let (answered, fate) = scene.cut_after(wait).with_context(|| format!("{eighths}/8"))?;
        println!("cut after {} ms, answered: {answered}: {fate:?}", wait.as_millis());
        seen.push(fate);
        scene.renew().with_context(|| format!("{eighths}/8"))?;
    }
    assert!(seen.contains(&Fate::Absent), "nothing was ever lost: the power was not cut");
    Ok(())
});

on_one!(what_is_on_the_disk_stays_and_what_is_not_goes, |t| {
    let scene = Scene::new(t)?;
    // Just answered: the sync has not begun, or is under way. On a busy machine it may come to what is written next.
    let lost = |number: u32| -> Result<bool> {
        t.cri.pull(&scene.image)?;
        let mark = t.settings().root().join(format!("mark-{number}"));
        std::fs::File::create(&mark)?.write_all(b"x")?;
        scene.cut()?;
        println!("just after the answer: {:?}", scene.fate()?);
        scene.renew()?;
        Ok(!std::fs::read_to_string(&mark).is_ok_and(|text| text == "x"))
    };
    let all: Vec<bool> = (0..5).map(lost).collect::<Result<_>>()?;
    assert!(all.contains(&true), "the disk kept what was in memory, each time");
    // Seen to be on the disk: then it is there for good.
    t.cri.pull(&scene.image)?;
    scene.check_is_clean()?;
    scene.cut()?;
    assert_eq!(scene.fate()?, Fate::Whole, "after the sync");
    // So is what an orderly stop has waited for, and containers that were running end with the boot.
    scene.forget()?;
    t.cri.pull(&scene.image)?;
    let (_, id) = t.sleeper(|c| c.image = Some(davit_e2e::cri::spec(&scene.image)))?;
    assert_eq!(t.exec(&id, "echo well > /written; cat /written")?, "well");
    t.daemon().stop()?;
    scene.cut()?;
    assert!(t.cri.pods(None)?.is_empty());
    assert_eq!(scene.fate()?, Fate::Whole, "after an orderly stop");
    // A removal that was answered may come undone, but not by half.
    t.cri.remove_image(&scene.image)?;
    scene.cut()?;
    println!("just after its removal: {:?}", scene.fate()?);
    scene.renew()
});

on_one!(at_each_step_of_a_pull_too, setup: with_failpoints, |t| {
    for text in ["failpoint", "left behind"] {
        t.allow_log(text);
    }
    let scene = Scene::new(t)?;
    let steps: Vec<String> =
        steps()?.into_iter().filter(|step| step.starts_with("pull.")).collect();
    ensure!(steps.len() > 3, "{steps:?}");
    for step in &steps {
        t.daemon().stop()?;
        t.daemon().set_env(vec![("DAVIT_FAILPOINT".to_owned(), format!("{step}=kill"))]);
        t.daemon().spawn()?;
        ensure!(t.cri.pull(&scene.image).is_err(), "{step} was not come to");
        t.daemon().wait(WITHIN).with_context(|| step.clone())?;
        t.daemon().set_env(Vec::new());
        scene.cut()?;
        let fate = scene.fate().with_context(|| step.clone())?;
        println!("killed at {step}, then cut: {fate:?}");
        scene.renew().with_context(|| step.clone())?;
    }
    Ok(())
});

/// What the disk does to an image while nobody looks: the image's directory, its only layer's.
type Rot = fn(&Path, &Path) -> Result<()>;

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(std::fs::File::create(path)?.write_all(bytes)?)
}

fn edit(path: &Path, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    ensure!(text.contains(from), "{text}");
    write_whole(path, text.replacen(from, to, 1).as_bytes())
}

/// What is done, and what is said of it.
const ROTS: [(&str, Rot, &str); 9] = [
    (
        "a layer's record is empty",
        |_, layer| write_whole(&layer.join("layer.json"), b""),
        "parse layer.json",
    ),
    (
        "it is cut short",
        |_, layer| write_whole(&layer.join("layer.json"), b"{\"version\": 1,"),
        "parse layer.json",
    ),
    (
        "it is of a newer version",
        |_, layer| edit(&layer.join("layer.json"), "\"version\": 1", "\"version\": 9"),
        "version 9",
    ),
    (
        "it is gone",
        |_, layer| Ok(std::fs::remove_file(layer.join("layer.json"))?),
        "read layer.json",
    ),
    (
        "a layer's files are gone",
        |_, layer| Ok(std::fs::remove_dir_all(layer.join("fs"))?),
        "look at fs",
    ),
    ("the layer is gone", |_, layer| Ok(std::fs::remove_dir_all(layer)?), "is not here"),
    (
        "an image's record is empty",
        |image, _| write_whole(&image.join("image.json"), b""),
        "parse image.json",
    ),
    (
        "its configuration is another",
        |image, _| edit(&image.join("config.json"), "{", "{ "),
        "config.json has digest",
    ),
    (
        "its manifest is another",
        |image, _| edit(&image.join("manifest.json"), "{", "{ "),
        "manifest.json has digest",
    ),
];

/// The only directory in one that has a digest's name.
fn only(directory: &Path) -> Result<PathBuf> {
    let mut names = names_in(directory)?;
    names.retain(|name| name.len() == 64);
    ensure!(names.len() == 1, "{names:?}");
    Ok(directory.join(&names[0]))
}

on_one!(what_is_broken_is_named_at_the_start_put_aside_and_pulled_again, |t| {
    t.allow_log("put a broken image or layer aside");
    t.allow_log("its image is damaged");
    let (_, id) = t.sleeper(|_| ())?;
    let pid = t.pid(&id)?;
    let root = t.settings().root();
    for (what, rot, reason) in ROTS {
        let reference = t.pull("davit-test/busybox:latest")?;
        let (image, layer) = (only(&root.join("images"))?, only(&root.join("layers"))?);
        let logged = t.daemon().log().len();
        t.daemon().stop()?;
        rot(&image, &layer).context(what)?;
        t.daemon().spawn().context(what)?;
        // The first answer comes after all that a start has to say.
        assert!(t.cri.image(&reference)?.is_none(), "{what}: it is still told");
        let log = t.daemon().log().split_off(logged);
        let named = |line: &str| line.contains("aside") && line.contains(reason);
        ensure!(log.lines().any(named), "{what}: {log}");
        // The container that has it mounted is let alone.
        assert_eq!(t.pid(&id)?, pid, "{what}");
        t.exec(&id, "grep -q ^root: /etc/passwd").context(what)?;
        t.cri.pull(&reference).context(what)?;
        t.davit_ok(&["run", "--rm", "busybox", "grep", "-q", "^root:", "/etc/passwd"])
            .context(what)?;
    }
    Ok(())
});

on_one!(a_layer_that_is_found_broken_in_use_is_named_and_pulled_again, |t| {
    t.allow_log("let go of an image");
    // It may come to be sealed just then.
    t.allow_log("cannot seal layer");
    let pod = t.pod("web", |_| ())?;
    let reference = t.pull("davit-test/busybox:latest")?;
    let layer = only(&t.settings().root().join("layers"))?;
    std::fs::remove_dir_all(layer.join("fs"))?;
    let config = t.container_config("main");
    let refusal = t.cri.create(&pod.id, &config, &pod.config).err().context("it was created")?;
    let digest = layer.file_name().context("its name")?.to_string_lossy().into_owned();
    ensure!(refusal.message().contains(&digest), "{refusal:?}");
    eventually(WITHIN, "the image is let go", || {
        Ok(t.cri.image(&reference)?.is_none().then_some(()))
    })?;
    ensure!(
        t.daemon()
            .log()
            .lines()
            .any(|line| line.contains("let go of an image") && line.contains(&digest))
    );
    // As the kubelet does when it finds no image.
    let id = t.run(&pod, "main", |_| ())?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    Ok(())
});
