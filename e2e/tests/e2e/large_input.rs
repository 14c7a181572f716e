//! Input that is large, or slow to come: taken where it is honest, refused by its name where it is not, and in neither case is davit's memory or disk the price.

use davit_e2e::footprint::Footprint;
use davit_e2e::host::names_in;
use davit_e2e::images::Layer;
use davit_e2e::prelude::*;
use davit_e2e::registry::Fault;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::io::Write as _;
use std::time::Instant;

const WITHIN: Duration = Duration::from_secs(240);
const MIB: u64 = 1 << 20;
/// What a process may grow by for any of it, in MiB.
const GROWTH: u64 = 48;
/// Files of the layer that has many.
const FILES: usize = 100_000;
/// Layers of the image that has many: as many as Docker ever allowed.
const LAYERS: usize = 127;
/// MiB of a file of zeros.
const PIECE: usize = 64;
/// The line that has no end, in bytes.
const LINE: usize = 100 << 20;

/// The most memory of its own that a process ever had, in MiB.
fn peak(pid: u32) -> Result<u64> {
    Ok(Footprint::of(pid)?.own_peak() >> 10)
}

fn daemon(t: &Test) -> Result<u32> {
    t.daemon().pid().context("davit does not run")
}

/// Demands that the daemon has not grown by more than [`GROWTH`] since `before`.
fn grew_little(t: &Test, before: u64) -> Result<()> {
    let after = peak(daemon(t)?)?;
    println!("davit's peak: {before} MiB before, {after} MiB after");
    ensure!(after <= before + GROWTH, "davit grew from {before} to {after} MiB");
    Ok(())
}

fn nothing_unpacked(t: &Test) -> Result<()> {
    let layers = t.settings().root().join("layers");
    eventually(WITHIN, "nothing is left of the layers", || {
        Ok(names_in(&layers)?.is_empty().then_some(()))
    })
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// A header of a tar archive: of a file of [`PIECE`] MiB with this number in its name.
fn header(number: usize) -> [u8; 512] {
    let mut header = [0_u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &format!("zeros{number}"));
    for (at, text) in [(100, "0000644"), (108, "0000000"), (116, "0000000"), (136, "00000000000")] {
        put(at, text);
    }
    put(124, &format!("{:011o}", PIECE << 20));
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// An archive with so many MiB of zeros, in files of [`PIECE`] each, compressed: one member of gzip after the other, as the format allows.
fn zeros(mebibytes: usize) -> Result<Vec<u8>> {
    let (mut blob, piece) = (Vec::new(), gzip(&vec![0; PIECE << 20])?);
    for number in 0..mebibytes / PIECE {
        blob.extend(gzip(&header(number))?);
        blob.extend_from_slice(&piece);
    }
    blob.extend(gzip(&[0; 1024])?);
    Ok(blob)
}

/// The lines that a container of this image says by this script; its pod is removed.
fn said(t: &Test, image: &str, script: &str) -> Result<Vec<String>> {
    let pod = t.pod("reader", |_| ())?;
    let (status, lines) = t.output(&pod, "main", |c| {
        c.image = Some(davit_e2e::cri::spec(image));
        c.command = sh(script);
    })?;
    ensure!(status.exit_code == 0, "{status:?}: {lines:?}");
    t.cri.remove_pod(&pod.id)?;
    Ok(lines.into_iter().map(|line| line.content).collect())
}

/// An image whose second layer is this blob, in the place of an honest one.
fn with_blob(t: &Test, name: &str, blob: &[u8]) -> Result<String> {
    let store = t.registry.store();
    let image = t.busybox()?.layer(|tree| {
        tree.file("honest", "x");
    })?;
    let built = image.push(store, name, &["latest"])?;
    let mut manifest: Value = serde_json::from_slice(&store.read(&built.manifest)?)?;
    let layers = manifest["layers"].as_array_mut().context("the manifest has layers")?;
    let layer = layers.last_mut().context("the manifest has a layer")?;
    layer["digest"] = store.put_blob(blob)?.as_str().into();
    layer["size"] = blob.len().into();
    let digest = store.put_manifest(name, &serde_json::to_vec(&manifest)?)?;
    store.tag(name, "latest", &digest)?;
    Ok(t.registry.reference(&format!("{name}:latest")))
}

on_one!(
    ten_gigabytes_of_zeros_in_ten_megabytes_are_refused_as_soon_as_they_are_too_many,
    setup: |s| {
        s.tables.push_str("[images]\nlayer_bytes = 536870912\n");
        Ok(())
    },
    |t| {
        let blob = zeros(10 << 10)?;
        println!("{} bytes", blob.len());
        ensure!(blob.len() < 12 << 20);
        let reference = with_blob(t, "large/zeros", &blob)?;
        let before = peak(daemon(t)?)?;
        let disk = || -> Result<u64> {
            let told = rustix::fs::statvfs(t.settings().root())?;
            Ok(told.f_bfree * told.f_frsize / MIB)
        };
        let (free, begun) = (disk()?, Instant::now());
        let refusal = std::thread::scope(|scope| -> Result<_> {
            let pull = scope.spawn(|| t.cri.pull(&reference));
            let mut least = free;
            while !pull.is_finished() {
                least = least.min(disk()?);
                pause(Duration::from_millis(5));
            }
            println!("{:?}; at most {} MiB of the disk", begun.elapsed(), free - least);
            // What others write meanwhile counts, too: far less than the layer would have been.
            ensure!(free - least < 5 << 10, "{} MiB were on the disk", free - least);
            pull.join().map_err(|_panic| anyhow::anyhow!("the pull panicked"))?.err().context("it was taken")
        })?;
        ensure!(
            refusal.message().contains("536870912") && refusal.message().contains("large/zeros"),
            "{refusal:?}"
        );
        grew_little(t, before)?;
        ensure!(t.cri.list_images()?.is_empty());
        nothing_unpacked(t)?;
        // One that keeps the limit is taken.
        t.pull("davit-test/busybox:latest")?;
        Ok(())
    }
);

on_one!(
    more_entries_than_are_allowed_are_refused,
    setup: |s| {
        s.tables.push_str("[images]\nlayer_entries = 1000\n");
        Ok(())
    },
    |t| {
        let image = t.busybox()?.layer(|tree| many(tree, 1001))?;
        let refusal = t.cri.pull(&t.push("large/entries", &image)?).err().context("it was taken")?;
        ensure!(refusal.message().contains("1000") && refusal.message().contains("layer_entries"), "{refusal:?}");
        ensure!(t.cri.list_images()?.is_empty());
        nothing_unpacked(t)
    }
);

fn many(tree: &mut Layer, files: usize) {
    for file in 0..files {
        tree.file(&format!("many/{}/{file}", file / 1000), file.to_string());
    }
}

on_one!(a_hundred_thousand_files_in_one_layer_are_all_there, |t| {
    let image = t.busybox()?.layer(|tree| many(tree, FILES))?;
    let reference = t.push("large/files", &image)?;
    let (before, begun) = (peak(daemon(t)?)?, Instant::now());
    // How fast it is, hack/bench tells: here it is unoptimized, and other tests keep the disk busy.
    t.cri.pull_within(&reference, Duration::from_secs(240))?;
    println!("pulled in {:?}", begun.elapsed());
    grew_little(t, before)?;
    let said = said(t, &reference, "find /many -type f | wc -l; cat /many/99/99999 /many/0/0")?;
    assert_eq!(said, [FILES.to_string().as_str(), "999990"]);
    t.cri.remove_image(&reference)?;
    nothing_unpacked(t)
});

on_both!(a_hundred_and_twenty_seven_layers_lie_over_each_other, |t| {
    let mut image = t.busybox()?;
    for layer in 1..LAYERS {
        image = image.layer(|tree| {
            tree.file(&format!("layers/{layer}"), "x").file("last", layer.to_string());
        })?;
    }
    let reference = t.push("large/layers", &image)?;
    t.cri.pull(&reference)?;
    let script = "ls /layers | wc -l; cat /last; echo; echo y >/layers/1; cat /layers/1";
    assert_eq!(said(t, &reference, script)?, ["126", "126", "y"]);
    t.cri.remove_image(&reference)?;
    nothing_unpacked(t)
});

on_both!(a_line_of_a_hundred_megabytes_comes_whole_and_costs_no_memory, |t| {
    let pod = t.pod("web", |_| ())?;
    let shim = crate::shim_loss::shim(t, &pod)?;
    let (davit, before) = (peak(daemon(t)?)?, peak(shim)?);
    let script = format!("head -c {LINE} /dev/zero | tr '\\0' x; echo; echo next");
    let (status, lines) = t.output(&pod, "main", |c| c.command = sh(&script))?;
    assert_eq!(status.exit_code, 0);
    let (last, parts) = lines.split_last().context("there is no line")?;
    assert_eq!(last.content, "next");
    assert_eq!(parts.iter().map(|part| part.content.len()).sum::<usize>(), LINE);
    assert_eq!(parts.iter().filter(|part| !part.partial).count(), 1);
    ensure!(parts.last().is_some_and(|part| !part.partial));
    let after = peak(shim)?;
    println!("the shim's peak: {before} MiB before, {after} MiB after");
    ensure!(after <= before + 2, "the shim grew from {before} to {after} MiB");
    grew_little(t, davit)
});

on_one!(
    a_registry_that_is_slow_is_waited_for_for_as_long_as_something_comes,
    setup: |s| {
        "pull_progress_timeout = \"1s\"\n".clone_into(&mut s.keys);
        Ok(())
    },
    |t| {
        t.registry.fault("davit-test/busybox", Fault::Slow(400 << 10));
        let begun = Instant::now();
        t.pull("davit-test/busybox:one")?;
        println!("{:?}", begun.elapsed());
        ensure!(begun.elapsed() > Duration::from_secs(1), "it was not slow: {:?}", begun.elapsed());
        Ok(())
    }
);

on_one!(a_registry_without_ranges_gives_the_whole, |t| {
    // What does not compress well: what has come when the connection breaks is hundreds of KiB.
    let noise =
        (0..250_000_u32).map(|number| number.wrapping_mul(number).wrapping_mul(2_654_435_761));
    let noise: Vec<u8> = noise.flat_map(u32::to_le_bytes).collect();
    let sum = Digest::of(&noise);
    let image = t.busybox()?.layer(|tree| {
        tree.file("noise", noise);
    })?;
    let built = image.push(t.registry.store(), "large/whole", &["latest"])?;
    let layer = built.layers.last().context("it has layers")?;
    t.registry.fault("large/whole", Fault::NoRanges(layer.clone()));
    let reference = t.pull("large/whole:latest")?;
    let asked = t.registry.requests().into_iter();
    let asked =
        asked.filter(|request| request.method == "GET" && request.target.contains(layer.hex()));
    let asked: Vec<_> = asked.map(|request| (request.range.is_some(), request.status)).collect();
    // What was there already is skipped.
    assert_eq!(asked, [(false, 200), (true, 200)]);
    assert_eq!(said(t, &reference, "sha256sum < /noise")?, [format!("{}  -", sum.hex())]);
    Ok(())
});
