//! See `arenite_shim::fuzzing::operations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    arenite_shim::fuzzing::operations(bytes);
});
