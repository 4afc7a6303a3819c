//! Tells cargo what else the kernel is made of, and makes its first, blank disk.

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=kernel.ld");
    println!("cargo:rerun-if-changed=disk.img");
    let disk = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open("disk.img")?;
    if disk.metadata()?.len() == 0 {
        disk.set_len(64 << 20)?;
    }
    Ok(())
}
