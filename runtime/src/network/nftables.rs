//! Whether a table is there.
//!
//! Owns one question to the kernel, which costs microseconds where nft costs a process. Tables are written by nft ([`super::bridge::firewall`]).

use super::netfilter::{Netfilter, Question, attribute};
use std::io;

const GET_TABLE: u16 = (10 << 8) | 1;
const TABLE_NAME: u16 = 1;
/// `NFPROTO_INET`: IPv4 and IPv6 in one.
const INET: u8 = 1;

/// Whether there is a table of family inet with this name.
///
/// # Errors
/// The system call that failed; nothing can be said then.
pub(super) fn is_there(netfilter: &Netfilter, table: &str) -> io::Result<bool> {
    let name = [table.as_bytes(), &[0]].concat();
    let attributes = attribute(TABLE_NAME, &name);
    match netfilter.ask(&Question { kind: GET_TABLE, flags: 0, family: INET, attributes }) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn nft(line: &str) {
        assert!(Command::new("nft").arg(line).status().unwrap().success(), "{line}");
    }

    #[test]
    fn a_table_is_there_from_its_making_to_its_end() {
        let netfilter = Netfilter::open().unwrap();
        let name = format!("dvthere{}", std::process::id());
        assert!(!is_there(&netfilter, &name).unwrap());
        nft(&format!("add table inet {name}"));
        let (there, prefix) = (is_there(&netfilter, &name), is_there(&netfilter, "dvther"));
        nft(&format!("delete table inet {name}"));
        assert!(there.unwrap() && !prefix.unwrap());
        assert!(!is_there(&netfilter, &name).unwrap());
    }
}
