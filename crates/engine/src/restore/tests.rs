//! Tests of the restore verb.
