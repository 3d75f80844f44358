//! Whole nodes in small worlds.

mod clocks;
mod dead_servers;
mod dormant;
mod gossip;
mod governing;
mod meeting;
mod scale;
mod several;
mod silence;
mod stock;
mod world;
