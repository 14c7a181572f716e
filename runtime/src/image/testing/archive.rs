//! Archives, honest and otherwise.

use tar::Header;

/// A tar archive in the making.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    /// Any entry; what `change` does to the header is covered by its checksum.
    pub(crate) fn raw(
        mut self,
        kind: u8,
        name: &[u8],
        data: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        assert!(name.len() <= 100);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_mut_bytes()[156] = kind;
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(b'0', name.as_bytes(), data, |_| {})
    }

    pub(crate) fn directory(self, name: &str, mode: u32) -> Self {
        self.raw(b'5', name.as_bytes(), b"", |header| header.set_mode(mode))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(b'2', name.as_bytes(), b"", |header| header.set_link_name_literal(target).unwrap())
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(b'1', name.as_bytes(), b"", |header| header.set_link_name_literal(target).unwrap())
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.raw(b'x', b"pax", &pax_records(records), |_| {})
    }

    /// With the two blocks that end it.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// The data of an extended header.
pub(crate) fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    bytes
}
