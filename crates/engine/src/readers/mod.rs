//! Readers of AI files: where do the numbers of a file lie, and of which kind are they? (`docs/tensors.md`, Readers)
//!
//! [`read`] looks at a file's first bytes and reads its header, footer or directory into a [`Layout`]: tensors, embedded
//! checksums, good places to cut. Pure: bytes come through [`ReadAt`]; there is no file system, thread or clock, and
//! nothing of a file is ever run.
//!
//! All of it is a hint. A header that lies costs ratio, never data, and never a panic or memory that it chooses: a reading
//! reads at most [`READ_BYTES_MAX`], a layout takes at most [`LAYOUT_BYTES_MAX`], and what a reader keeps meanwhile has a
//! bound of its own ([`WORK_BYTES_MAX`] is the largest). What can't be read is left out; a file that can't be read has no
//! layout.

mod arrow;
pub mod crc;
mod distcp;
mod dtype;
mod flatbuffer;
mod gguf;
mod input;
mod json;
mod layout;
mod npy;
pub mod ocdbt;
mod onnx;
mod parquet;
mod pickle;
mod role;
mod safetensors;
mod strided;
mod tar;
#[cfg(test)]
mod tests;
pub mod tfrecord;
mod torch;
mod whole;
mod zip;

use std::cell::Cell;

pub use distcp::{
    Metadata as DistcpMetadata, Names as DistcpNames, Stored, goes_on as distcp_goes_on,
    lack_by_itself as distcp_lack_by_itself, metadata as distcp_metadata,
};
pub use dtype::{Dtype, GgmlType, ggml};
pub use input::{READ_BYTES_MAX, ReadAt};
pub use layout::{
    Check, CheckKind, DIMENSIONS_MAX, Format, LAYOUT_BYTES_MAX, Layout, NAME_BYTES_MAX, TENSORS_MAX, Tensor, View,
    elements,
};
pub use role::{Role, is_state_file, roles};
pub use safetensors::{
    Header as SafetensorsHeader, Outline, dtype_name as safetensors_dtype, header as safetensors_header,
};
pub use strided::Strided;
pub use whole::{Whole, whole};

use crate::units::MIB;
use input::Input;
use layout::Builder;

/// A reader keeps at most about this beside the layout, in bytes: the values of a pickle and the tensors found in them.
pub const WORK_BYTES_MAX: usize = 256 * MIB;

/// Reads the layout of a file. `name` is the file's own name, without folders: ONNX files and parts of distributed
/// checkpoints are told by it, all others by their bytes. None where no format is recognised or the file can't be read.
#[must_use]
pub fn read(file: &dyn ReadAt, name: &[u8]) -> Option<Layout> {
    let allowance = Cell::new(READ_BYTES_MAX);
    let input = Input::new(file, &allowance);
    let head: [u8; 512] = input.head()?;
    let builder = |format| Builder::new(format, input.length());
    if head.starts_with(&gguf::MAGIC) {
        let mut builder = builder(Format::Gguf);
        return gguf::read(&input, &mut builder).map(|()| builder.finish());
    }
    if head.starts_with(&npy::MAGIC) {
        let mut builder = builder(Format::Npy);
        return npy::read(&input, "", &mut builder).map(|()| builder.finish());
    }
    if head.starts_with(&arrow::MAGIC) {
        let mut builder = builder(Format::Arrow);
        return arrow::read(&input, &mut builder).map(|()| builder.finish());
    }
    if head.starts_with(&parquet::MAGIC) {
        let mut builder = builder(Format::Parquet);
        return parquet::read(&input, &mut builder).map(|()| builder.finish());
    }
    if zip::recognises(&head) {
        return read_zips(&input);
    }
    if tar::recognises(&head) {
        let mut builder = builder(Format::Tar);
        tar::read(&input, &mut builder);
        return Some(builder.finish());
    }
    if safetensors::recognises(&head) {
        return read_safetensors(&input, name);
    }
    if tfrecord::recognises(file) {
        return Some(builder(Format::TfRecord).finish());
    }
    if onnx::recognises(name) {
        let mut builder = builder(Format::Onnx);
        return onnx::read(&input, &mut builder).map(|()| builder.finish());
    }
    None
}

fn read_safetensors(input: &Input, name: &[u8]) -> Option<Layout> {
    let mut builder = Builder::new(Format::Safetensors, input.length());
    if name.ends_with(b".distcp") {
        return (distcp::read_safetensors(input, &mut builder) > 0).then(|| builder.finish());
    }
    safetensors::read(input, &mut builder).map(|_| builder.finish())
}

/// One zip, or several in a row.
fn read_zips(input: &Input) -> Option<Layout> {
    let archives = distcp::archives(input);
    let mut builder = Builder::new(Format::Zip, input.length());
    for archive in &archives {
        builder.boundary(input.start() + archive.range.start);
        // An archive whose directory can't be read costs its own members.
        let Some(entries) = archive.entries(input) else { continue };
        entries.iter().for_each(|entry| entry.add(input, &mut builder));
        if let Some(stem) = torch::stem(&entries) {
            builder.set_format(Format::Torch);
            torch::read(input, stem, &entries, &mut builder);
        } else if npy::is_npz(&entries) {
            builder.set_format(Format::Npz);
            npy::read_npz(input, &entries, &mut builder);
        }
    }
    if archives.len() > 1 {
        builder.set_format(Format::Distcp);
    }
    (!archives.is_empty()).then(|| builder.finish())
}
