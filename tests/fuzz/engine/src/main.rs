//! The engine: libFuzzer around one target. `cargo xtask fuzz` builds and runs it.
//!
//! | variable | meaning |
//! |---|---|
//! | `GINNEL_FUZZ_TARGET` | the target's name |
//! | `GINNEL_FUZZ_LIST` | a folder: lists the targets, a line each, writes their seeds into folders there, and ends |

#![no_main]

use std::path::PathBuf;
use std::process::exit;
use std::sync::OnceLock;

use ginnel_fuzz::{TARGETS, Target, target};

libfuzzer_sys::fuzz_target!(init: list(), |data: &[u8]| (chosen().run)(data));

fn list() {
    let Some(folder) = std::env::var_os("GINNEL_FUZZ_LIST").map(PathBuf::from) else { return };
    for target in TARGETS {
        println!("{}\t{}\t{}", target.name, target.longest, target.covers);
        let folder = folder.join(target.name);
        let written = std::fs::create_dir_all(&folder).and_then(|()| {
            let mut seeds = (target.seeds)().into_iter().enumerate();
            seeds.try_for_each(|(number, seed)| std::fs::write(folder.join(format!("seed-{number}")), seed))
        });
        if let Err(error) = written {
            eprintln!("{}: {error}", folder.display());
            exit(1);
        }
    }
    exit(0);
}

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("GINNEL_FUZZ_TARGET").unwrap_or_default();
        target(&name).unwrap_or_else(|| {
            eprintln!("GINNEL_FUZZ_TARGET={name:?} names no target");
            exit(2);
        })
    })
}
