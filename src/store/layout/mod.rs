//! Where everything is under the root: [`Key`] is the table. No other module makes a path or takes one apart.

mod folder;
mod keys;
mod shape;

pub use folder::{
    Folder, LEASES, SIGNATURES, SNAPSHOTS, TOPS, embeddings_dir, executor_statuses, folder,
    hash_in_name, indexes_dir, is_file, is_json, is_receipt, makes, manifest_number,
    manifest_numbers_in, parts_dir, prepared_dir, root_around, run_of, snapshot_of, staged,
    staged_for, tower_dir, tower_of,
};
pub use keys::{
    Key, LeaseKind, ReportName, adapt_receipt, beat, build_receipt, calibration, checked_receipt,
    encode_receipt, executor_status, ids_file, index, index_receipt, lease, located, manifest,
    parse, part, part_receipt, plan, prepared, prepared_receipt, reader_lease, reading_receipt,
    removed_file, report, report_page, rows, rows_receipt, run_lease, shard_receipt, shares_plan,
    sidecar, signature, tower_config, tower_texts, tower_tokenizer, tower_weights,
};
