//! See `arenite_shim::fuzzing::sealed_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    arenite_shim::fuzzing::sealed_image(bytes);
});
