//! placeholder
/// x
pub const VICTIM: &str = "__victim";
/// x
pub fn run_victim(_: &str) -> anyhow::Result<()> {
    Ok(())
}
