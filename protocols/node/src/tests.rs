//! Whole nodes in small worlds.

mod apart;
mod clocks;
mod dead_servers;
mod dormant;
mod floods;
mod gossip;
mod governing;
mod liars;
mod meeting;
mod record;
mod refill;
mod scale;
mod several;
mod silence;
mod stock;
mod stored;
mod strangers;
mod world;
