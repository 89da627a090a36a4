//! Units and limits. Names end with their unit.

/// One KiB in bytes.
pub const KIB: usize = 1 << 10;
/// One MiB in bytes.
pub const MIB: usize = 1 << 20;

/// No chunk is longer than this; decoders refuse more before they allocate.
pub const CHUNK_BYTES_MAX: usize = 8 * MIB;
/// No pack is longer than this.
pub const PACK_BYTES_MAX: u64 = 256 * MIB as u64;
/// No index segment is longer than this: half a million records take about 50 MB.
pub const SEGMENT_BYTES_MAX: u64 = 256 * MIB as u64;
/// No log entry, key slot or other small object is longer than this.
pub const SMALL_OBJECT_BYTES_MAX: u64 = 64 * MIB as u64;
