//! Takes the Rust code out of docs/EMBEDDING.md and README.md, in the order of the text, for `tests/embedding.rs` and
//! `tests/readme.rs`.

use std::{env, fs, path::Path};

/// The Rust code of a text.
fn code(path: &str) -> String {
    println!("cargo:rerun-if-changed={path}");
    let text = fs::read_to_string(path).expect("the text can be read");
    let (mut program, mut inside) = (String::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        match line {
            "```rust" => {
                inside = true;
                program += &format!("// {path}, line {number}\n");
            }
            "```" => inside = false,
            other if inside => program += &format!("{other}\n"),
            _ => {}
        }
    }
    program
}

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);
    fs::write(out.join("embedding.rs"), code("../docs/EMBEDDING.md")).expect("OUT_DIR can be written");
    // Statements, so they want a function around them.
    let readme = format!("{{\n{}Ok(())\n}}\n", code("../README.md"));
    fs::write(out.join("readme.rs"), readme).expect("OUT_DIR can be written");
}
