//! The real `nsd` in a hermetic home: whole outputs, exit codes, files and refs, as a user would find them.
