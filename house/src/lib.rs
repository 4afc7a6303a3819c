//! The house rules, as tests. Nothing here is part of the store.
//!
//! | test        | what it keeps true                                                        |
//! |-------------|---------------------------------------------------------------------------|
//! | `embedding` | the code in docs/EMBEDDING.md compiles, and does what the text says        |
//! | `readme`    | the code in README.md compiles and runs                                   |
//! | `published` | what is published has complete metadata, and nothing else is published    |
//! | `tidy`      | ASCII, lines, file sizes, no tabs, no notes to oneself                    |
//! | `api`       | docs/api/arenite-core.txt is the public interface of the core             |
//! | `licences`  | every dependency has a licence from the list in deny.toml, and a reason   |
#![forbid(unsafe_code)]
