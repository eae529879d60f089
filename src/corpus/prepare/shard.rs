//! The SQL function that says in which shard a note lies.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::values::note_id_type;
use crate::error::{Error, Result};
use crate::types::{NoteId, shard_of};

/// SQL function: the shard of a note id; 0 for a null, an error for an integer that is not an i64.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ShardOfNote {
    signature: Signature,
    shard_count: u32,
    /// What to write for ids that are too large.
    way_out: String,
}

impl ShardOfNote {
    pub(super) fn new(shard_count: u32, way_out: String) -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable), shard_count, way_out }
    }

    fn shards(&self, ids: &ArrayRef) -> Result<UInt32Array> {
        let normal = note_id_type(ids.data_type())
            .ok_or_else(|| Error::internal("the shard function got an unchecked type"))?;
        let ids = match ids.data_type() {
            DataType::Dictionary(_, values) => cast(ids, values),
            _ => Ok(Arc::clone(ids)),
        }
        .map_err(|e| Error::internal("decoding note ids").with_source(e))?;
        if *ids.data_type() == DataType::UInt64 {
            let too_large = |id: &u64| i64::try_from(*id).is_err();
            if let Some(id) = ids.as_primitive::<UInt64Type>().iter().flatten().find(too_large) {
                return Err(Error::input(format!(
                    "note_id {id} does not fit a signed 64-bit integer; {}",
                    self.way_out
                ))
                .of_key("corpus.sql"));
            }
        }
        let ids =
            cast(&ids, &normal).map_err(|e| Error::internal("casting note ids").with_source(e))?;
        let shard = |id: NoteId| shard_of(&id, self.shard_count);
        if self.shard_count == 1 {
            return Ok(UInt32Array::from(vec![0; ids.len()]));
        }
        Ok(match normal {
            DataType::Int64 => ids
                .as_primitive::<Int64Type>()
                .iter()
                .map(|id| Some(id.map_or(0, |id| shard(NoteId::Int(id)))))
                .collect(),
            _ => ids
                .as_string::<i32>()
                .iter()
                .map(|id| Some(id.map_or(0, |id| shard(NoteId::Str(id.to_owned())))))
                .collect(),
        })
    }
}

impl ScalarUDFImpl for ShardOfNote {
    fn name(&self) -> &str {
        "sn_shard_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::error::Result<DataType> {
        Ok(DataType::UInt32)
    }

    fn invoke_with_args(
        &self,
        args: ScalarFunctionArgs,
    ) -> datafusion::error::Result<ColumnarValue> {
        let ids = args.args[0].to_array(args.number_rows)?;
        let shards = self.shards(&ids).map_err(|e| DataFusionError::External(Box::new(e)))?;
        Ok(ColumnarValue::Array(Arc::new(shards)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{DictionaryArray, UInt64Array};
    use arrow::datatypes::Int8Type;

    #[test]
    fn shards_follow_the_pinned_function() {
        let udf = ShardOfNote::new(7, "CAST it".to_owned());
        let dictionary: DictionaryArray<Int8Type> =
            vec![Some("a"), None, Some("b")].into_iter().collect();
        let shards = udf.shards(&(Arc::new(dictionary) as ArrayRef)).unwrap();
        let expected =
            [shard_of(&NoteId::Str("a".into()), 7), 0, shard_of(&NoteId::Str("b".into()), 7)];
        assert_eq!(shards.values().as_ref(), expected);
        let ints = Arc::new(UInt64Array::from(vec![5, u64::MAX])) as ArrayRef;
        let error = udf.shards(&ints).unwrap_err();
        assert!(error.to_string().contains("18446744073709551615"), "{error}");
        assert!(error.to_string().contains("CAST it"), "{error}");
    }
}
