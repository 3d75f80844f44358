//! Whole nodes in small worlds.

mod dead_servers;
mod gossip;
mod world;
