//! Takes the Rust code out of docs/EMBEDDING.md, in the order of the text, for `tests/embedding.rs`.

use std::{env, fs, path::Path};

fn main() {
    let guide = "../docs/EMBEDDING.md";
    println!("cargo:rerun-if-changed={guide}");
    let text = fs::read_to_string(guide).expect("docs/EMBEDDING.md can be read");
    let (mut program, mut inside) = (String::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        match line {
            "```rust" => {
                inside = true;
                program += &format!("// {guide}, line {number}\n");
            }
            "```" => inside = false,
            other if inside => program += &format!("{other}\n"),
            _ => {}
        }
    }
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("embedding.rs"), program).expect("OUT_DIR can be written");
}
