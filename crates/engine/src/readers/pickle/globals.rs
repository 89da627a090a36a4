//! The names that a pickle may mention and that mean something here. Every other is [`Global::Other`], an empty word.
//!
//! A name is never looked up, imported or called: it only tells what the values beside it are.

use super::super::dtype::Dtype;

/// What a name of a pickle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Global {
    /// Not in the list.
    Other,
    /// A class of maps.
    Map,
    /// A class that is nothing but the tuple it is made from.
    Tuple,
    /// A class of torch storages.
    Storage(Dtype),
    /// A torch dtype.
    Dtype(Dtype),
    /// A function of torch whose arguments begin with storage, offset, shape, strides.
    Tensor,
    /// The same, with the dtype as seventh argument.
    TensorWithDtype,
    /// A function whose first argument is the tensor.
    Parameter,
    /// A function whose arguments are a function, a type, and that function's arguments.
    FromType,
    /// torch.distributed.checkpoint: the whole of `.metadata`.
    Metadata,
    /// The same: which part of which tensor.
    MetadataIndex,
    /// The same: where it lies.
    StorageInfo,
    /// The same: a part of a tensor. Its state is where it begins, its arguments its shape.
    StoredChunk,
}

/// Finds a name.
pub(super) fn find(module: &str, name: &str) -> Global {
    match module {
        "torch" => torch(name),
        "torch.storage" if name == "UntypedStorage" => Global::Storage(Dtype::Unknown),
        "torch._utils" => match name {
            "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_qtensor" => Global::Tensor,
            "_rebuild_tensor_v3" => Global::TensorWithDtype,
            "_rebuild_parameter" | "_rebuild_parameter_with_state" => Global::Parameter,
            _ => Global::Other,
        },
        "torch._tensor" if matches!(name, "_rebuild_from_type" | "_rebuild_from_type_v2") => Global::FromType,
        "collections" if matches!(name, "OrderedDict" | "defaultdict" | "Counter") => Global::Map,
        "torch.distributed.checkpoint.metadata" if name == "Metadata" => Global::Metadata,
        "torch.distributed.checkpoint.metadata" if name == "MetadataIndex" => Global::MetadataIndex,
        "torch.distributed.checkpoint.metadata" if name == "ChunkStorageMetadata" => Global::StoredChunk,
        "torch.distributed.checkpoint.filesystem" if name == "_StorageInfo" => Global::StorageInfo,
        _ => Global::Other,
    }
}

fn torch(name: &str) -> Global {
    if name == "Size" {
        return Global::Tuple;
    }
    let dtype = match name.strip_suffix("Storage") {
        Some(kind) => return storage(kind).map_or(Global::Other, Global::Storage),
        None => dtype(name),
    };
    dtype.map_or(Global::Other, Global::Dtype)
}

fn storage(kind: &str) -> Option<Dtype> {
    Some(match kind {
        "Double" => Dtype::F64,
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::Bf16,
        "Long" => Dtype::I64,
        "Int" | "QInt32" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" | "QInt8" => Dtype::I8,
        "Byte" | "QUInt8" => Dtype::U8,
        "Bool" => Dtype::Bool,
        "ComplexFloat" => Dtype::Complex64,
        "ComplexDouble" => Dtype::Complex128,
        "Untyped" => Dtype::Unknown,
        _ => return None,
    })
}

fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::Bf16,
        "float8_e4m3fn" => Dtype::F8E4m3,
        "float8_e5m2" => Dtype::F8E5m2,
        "float8_e4m3fnuz" => Dtype::F8E4m3Fnuz,
        "float8_e5m2fnuz" => Dtype::F8E5m2Fnuz,
        "float8_e8m0fnu" => Dtype::F8E8m0,
        // Why a byte: an element of this torch type is a pair of four-bit floats, and shapes count the pairs.
        "float4_e2m1fn_x2" => Dtype::U8,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        "complex32" => Dtype::Complex32,
        "complex64" => Dtype::Complex64,
        "complex128" => Dtype::Complex128,
        _ => return None,
    })
}
