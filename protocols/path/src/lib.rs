//! Paths between two machines: candidates, probes, path selection and punching.
#![forbid(unsafe_code)]

pub mod id;
pub mod message;

pub use id::{Candidate, CandidateKind, Local, LocalCandidate, Path, RelayId, SocketId};
