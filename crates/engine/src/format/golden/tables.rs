//! Golden bytes of a file's entry with a tensor table, and of the table.

use super::super::node::{self, Node};
use super::super::tensor_table;
use super::{check, chunk, golden, key, leaf, plain_entry};
use crate::entry::{Content, Entry, Kind, TableRef};
use crate::ids::ChunkId;
use crate::readers::{Dtype, Tensor, View, ggml};
use crate::statistics::table::{TensorRecord, TensorTable};
use crate::statistics::{Exponents, Statistics};

#[test]
fn tensor_tables() {
    let table = Some(TableRef { id: ChunkId([0xA6; 32]), length: 123 });
    let model = Entry { size: 65_536, table, ..plain_entry(Kind::File(Content::Extents(vec![chunk(0xA1, 65_536)]))) };
    let entries = vec![(key(b"model"), model)];
    check("leaf-table", &leaf(&entries));
    assert_eq!(node::decode_node(&golden("leaf-table")).unwrap(), Node::Leaf(entries));

    let record = |name: &str, dtype, shape: &[u64], range, statistics| TensorRecord {
        tensor: Tensor { name: name.into(), dtype, shape: shape.to_vec(), view: View::Own, range },
        statistics,
    };
    let statistics = Statistics {
        elements: 1006,
        nan: 1,
        infinite: 2,
        zeros: 3,
        range: Some((-0.75, 1.5)),
        squares: 12.25,
        exponents: Exponents::from_bins(vec![(-127, 100), (-30, 300), (0, 600)]).unwrap(),
    };
    let table = TensorTable {
        tensors: vec![
            record(
                "",
                Dtype::Bool,
                &[],
                0..1,
                Some(Statistics { elements: 1, zeros: 1, range: Some((0.0, 0.0)), ..Statistics::default() }),
            ),
            record("layer.0.weight", Dtype::Bf16, &[2, 503], 1024..3036, Some(statistics)),
            record("blocks", ggml(12).unwrap(), &[256], 4096..4240, None),
            record("records", Dtype::Width(12), &[3], 1 << 40..(1 << 40) + 36, None),
        ],
        left_out: 9,
    };
    check("tensor-table", &tensor_table::encode(&table));
    assert_eq!(tensor_table::decode(&golden("tensor-table")).unwrap(), table);
}
