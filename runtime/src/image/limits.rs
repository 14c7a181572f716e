//! How much of a registry's word is taken before it is refused.

/// Bounds on documents and layers; each has a default that no honest image is known to reach.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a manifest or an index.
    pub manifest_bytes: u64,
    /// Bytes of a config.
    pub config_bytes: u64,
    /// Entries of an index.
    pub index_entries: usize,
    /// Indexes inside indexes, the outermost counted.
    pub index_depth: usize,
    /// Layers of an image: what the kernel's overlay takes as lower directories.
    pub layers: usize,
    /// Compressed bytes of a layer.
    pub blob_bytes: u64,
    /// Unpacked bytes of a layer's archive.
    pub layer_bytes: u64,
    /// Unpacked bytes for one compressed byte, counted once [`Self::ratio_free_bytes`] are unpacked. Deflate alone reaches 1032.
    pub ratio: u64,
    /// Unpacked bytes that may have any ratio: a file of zeroes is honest.
    pub ratio_free_bytes: u64,
    /// Entries of a layer's archive.
    pub entries: u64,
    /// Bytes of an entry's name or of a link's target.
    pub path_bytes: usize,
    /// Bytes of an entry's extended header.
    pub header_bytes: u64,
    /// Data regions of a sparse file.
    pub sparse_regions: usize,
    /// Bytes of the names of all of a layer's directories: they are kept until its end, for their times.
    pub directory_name_bytes: usize,
    /// Log2 of zstd's window: memory for each layer that is being unpacked. 27 is what the format's own tools refuse to exceed.
    pub zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 8 << 20,
            index_entries: 1024,
            index_depth: 3,
            layers: 500,
            blob_bytes: 256 << 30,
            layer_bytes: 1 << 40,
            ratio: 1000,
            ratio_free_bytes: 4 << 30,
            entries: 4_000_000,
            path_bytes: 4095,
            header_bytes: 1 << 20,
            sparse_regions: 65_536,
            directory_name_bytes: 64 << 20,
            zstd_window_log: 27,
        }
    }
}
