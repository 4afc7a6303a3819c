//! Which accelerator QEMU gets. KVM is used by itself only where hardware virtualisation is real: where `kvm_pvm` is
//! loaded, the guest's ring 0 runs in an instruction emulator and is far slower than TCG.

use anyhow::{bail, Result};
use clap::ValueEnum;
use std::fs::OpenOptions;
use std::path::Path;

/// What the user asks for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// KVM where hardware virtualisation is real, otherwise TCG
    Auto,
    /// QEMU's own translator; works everywhere
    Tcg,
    /// The kernel's virtual machine, even where it is slow
    Kvm,
}

/// What QEMU is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// QEMU's own translator.
    Tcg,
    /// The kernel's virtual machine.
    Kvm,
    /// QEMU's own translator, counting: the guest's clock goes on by a nanosecond with each instruction, and nothing
    /// else moves it.
    Counting,
}

impl Accel {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcg | Self::Counting => "tcg",
            Self::Kvm => "kvm",
        }
    }

    /// What QEMU is told besides.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Tcg | Self::Kvm => &[],
            Self::Counting => &["-icount", "shift=0,sleep=off"],
        }
    }
}

/// What this machine offers.
struct Host {
    device_usable: bool,
    cpu_has_it: bool,
    emulated: bool,
}

impl Host {
    fn probe() -> Self {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            device_usable: OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok(),
            cpu_has_it: cpu_has_virtualisation(&flags),
            emulated: Path::new("/sys/module/kvm_pvm").exists(),
        }
    }

    /// Why KVM would not be worth it, if it would not.
    fn objection(&self) -> Option<&'static str> {
        if self.emulated {
            Some("kvm_pvm is loaded, which emulates the guest's kernel instruction by instruction")
        } else if !self.cpu_has_it {
            Some("the processor shows neither vmx nor svm")
        } else {
            None
        }
    }
}

fn cpu_has_virtualisation(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// Chooses; an error where KVM is asked for and cannot be opened at all.
pub fn choose(wish: Wish) -> Result<Accel> {
    decide(wish, &Host::probe())
}

/// Whether the guest's code is executed by a program instead of a processor.
pub fn is_emulated(accel: Accel) -> bool {
    accel != Accel::Kvm || Host::probe().objection().is_some()
}

fn decide(wish: Wish, host: &Host) -> Result<Accel> {
    match wish {
        Wish::Tcg => Ok(Accel::Tcg),
        Wish::Auto if host.device_usable && host.objection().is_none() => Ok(Accel::Kvm),
        Wish::Auto => Ok(Accel::Tcg),
        Wish::Kvm if !host.device_usable => bail!("--accel kvm: /dev/kvm cannot be opened (use --accel tcg)"),
        Wish::Kvm => {
            if let Some(objection) = host.objection() {
                eprintln!("warning: --accel kvm may be very slow: {objection}");
            }
            Ok(Accel::Kvm)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_only_where_it_is_real() {
        let auto = |device_usable, cpu_has_it, emulated| {
            decide(Wish::Auto, &Host { device_usable, cpu_has_it, emulated }).unwrap()
        };
        assert_eq!(auto(true, true, false), Accel::Kvm);
        assert_eq!(auto(false, true, false), Accel::Tcg);
        assert_eq!(auto(true, false, false), Accel::Tcg);
        assert_eq!(auto(true, true, true), Accel::Tcg);
    }

    #[test]
    fn an_explicit_wish_is_honoured_or_refused() {
        let pvm = Host { device_usable: true, cpu_has_it: true, emulated: true };
        assert_eq!(decide(Wish::Kvm, &pvm).unwrap(), Accel::Kvm);
        assert_eq!(decide(Wish::Tcg, &pvm).unwrap(), Accel::Tcg);
        let none = Host { device_usable: false, cpu_has_it: true, emulated: false };
        assert!(decide(Wish::Kvm, &none).unwrap_err().to_string().contains("/dev/kvm"));
    }

    #[test]
    fn flags_are_whole_words() {
        assert!(cpu_has_virtualisation("model : x\nflags\t\t: fpu vmx sse\n"));
        assert!(cpu_has_virtualisation("flags : fpu svm\n"));
        assert!(!cpu_has_virtualisation("flags : fpu vmxnot\nvmx flags : vnmi\n"));
        assert!(!cpu_has_virtualisation(""));
    }
}
