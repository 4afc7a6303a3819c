//! Compiles the reference hash with the optimisation that its users get.

fn main() {
    println!("cargo::rerun-if-changed=c/metrohash64.c");
    cc::Build::new().file("c/metrohash64.c").opt_level(3).warnings(true).compile("metrohash64_reference");
}
