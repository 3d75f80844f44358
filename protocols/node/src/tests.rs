//! Whole nodes in small worlds.

mod clocks;
mod dead_servers;
mod gossip;
mod governing;
mod record;
mod scale;
mod several;
mod stock;
mod world;
