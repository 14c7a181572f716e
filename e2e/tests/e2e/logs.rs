//! Logs: every byte, once, in order, in the format of CRI.

use davit_e2e::prelude::*;
use davit_e2e::test::Line;

fn of<'a>(lines: &'a [Line], stream: &str) -> Vec<&'a str> {
    lines.iter().filter(|line| line.stream == stream).map(|line| line.content.as_str()).collect()
}

on_both!(both_streams_are_kept_apart_and_in_order, |t| {
    let pod = t.pod("web", |_| ())?;
    let script = "for i in $(seq 200); do echo out $i; echo err $i >&2; done; echo";
    let (_, lines) = t.output(&pod, "main", |c| c.command = sh(script))?;
    let mut expected: Vec<String> = (1..=200).map(|number| format!("out {number}")).collect();
    expected.push(String::new());
    assert_eq!(of(&lines, "stdout"), expected);
    let expected: Vec<String> = (1..=200).map(|number| format!("err {number}")).collect();
    assert_eq!(of(&lines, "stderr"), expected);
    assert!(lines.iter().all(|line| !line.partial));
    assert!(lines.is_sorted_by_key(|line| &line.time), "the times go back");
    Ok(())
});

on_both!(a_long_line_comes_in_parts_that_make_the_whole, |t| {
    let pod = t.pod("web", |_| ())?;
    let script = "head -c 50000 /dev/zero | tr '\\0' x; echo; echo next";
    let (_, lines) = t.output(&pod, "main", |c| c.command = sh(script))?;
    assert_eq!(lines.last().unwrap().content, "next");
    let parts = &lines[..lines.len() - 1];
    assert_eq!(parts.iter().map(|part| part.content.len()).sum::<usize>(), 50_000);
    assert!(parts.len() > 1 && parts[..parts.len() - 1].iter().all(|part| part.partial));
    assert!(!parts.last().unwrap().partial);
    assert!(parts.iter().all(|part| part.content.len() <= 16_384));
    Ok(())
});

on_both!(the_last_line_is_there_without_an_end_of_line, |t| {
    let pod = t.pod("web", |_| ())?;
    let (_, lines) = t.output(&pod, "main", |c| c.command = sh("printf 'no end'"))?;
    assert_eq!(of(&lines, "stdout"), ["no end"]);
    Ok(())
});

on_both!(all_of_a_flood_is_there_when_the_exit_is_told, |t| {
    let pod = t.pod("web", |_| ())?;
    let (_, lines) = t.output(&pod, "main", |c| c.command = sh("seq 100000"))?;
    assert_eq!(lines.len(), 100_000);
    assert!(lines.iter().enumerate().all(|(at, line)| line.content == (at + 1).to_string()));
    Ok(())
});

on_both!(after_a_reopen_lines_go_to_the_new_file_and_none_is_lost, |t| {
    let (_, id) =
        t.sleeper(|c| c.command = sh("i=0; while :; do i=$((i+1)); echo $i; usleep 2000; done"))?;
    let path = PathBuf::from(t.cri.status(&id)?.log_path);
    let rotated = path.with_extension("rotated");
    let length = |path: &Path| -> Result<u64> { Ok(std::fs::metadata(path)?.len()) };
    eventually(Duration::from_secs(30), "the container speaks", || {
        Ok((length(&path)? > 500).then_some(()))
    })?;
    std::fs::rename(&path, &rotated)?;
    t.cri.reopen_log(&id)?;
    let frozen = length(&rotated)?;
    eventually(Duration::from_secs(30), "the new file grows", || {
        Ok((length(&path)? > 500).then_some(()))
    })?;
    assert_eq!(length(&rotated)?, frozen, "the old file grew after the answer");
    t.cri.stop(&id, 0)?;
    let (old, new) = (std::fs::read_to_string(&rotated)?, std::fs::read_to_string(&path)?);
    let lines = davit_e2e::test::parse_log(&(old + &new))?;
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line.content, (at + 1).to_string());
    }
    refused(t.cri.reopen_log(&id), Code::FailedPrecondition, &[&id])?;
    Ok(())
});

on_one!(without_a_log_path_output_is_dropped_and_stops_nobody, |t| {
    let pod = t.pod("web", |_| ())?;
    let id = t.run(&pod, "main", |c| {
        c.log_path.clear();
        c.command = sh("seq 100000");
    })?;
    assert_eq!(t.wait_for_exit(&id)?.exit_code, 0);
    Ok(())
});
