//! x
fn main() -> anyhow::Result<()> {
    ginnel_lab::dispatch_hidden();
    let begun = std::time::Instant::now();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let a: ginnel_lab::NatKind = args[0].parse()?;
    let b: ginnel_lab::NatKind = args[1].parse()?;
    let lab = ginnel_lab::Lab::pair(a, b)?;
    eprintln!("built in {:?}", begun.elapsed());
    let mut child = std::process::Command::new("bash")
        .args(["-c", &args[2]])
        .env("P", format!("gnl-{}-0-", std::process::id()))
        .spawn()?;
    child.wait()?;
    let begun = std::time::Instant::now();
    drop(lab);
    eprintln!("gone in {:?}", begun.elapsed());
    Ok(())
}
