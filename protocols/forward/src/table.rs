//! Peers in a slab, found by id for commands and by slot for packets.

use std::collections::BTreeMap;

use crate::command::PeerId;

/// A place in a [`Table`]; reused after its peer is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(usize);

/// The peers of one half.
pub(crate) struct Table<T> {
    slots: Vec<Option<T>>,
    ids: BTreeMap<PeerId, Slot>,
    free: Vec<Slot>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), ids: BTreeMap::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// The slot of `id`, holding what `make` gives when the peer is new.
    pub(crate) fn insert_with(&mut self, id: PeerId, make: impl FnOnce() -> T) -> Slot {
        if let Some(slot) = self.ids.get(&id) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(self.slots.len() - 1)
        });
        self.slots[slot.0] = Some(make());
        self.ids.insert(id, slot);
        slot
    }

    pub(crate) fn remove(&mut self, id: PeerId) -> Option<(Slot, T)> {
        let slot = self.ids.remove(&id)?;
        let peer = self.slots[slot.0].take()?;
        self.free.push(slot);
        Some((slot, peer))
    }

    pub(crate) fn slot(&self, id: PeerId) -> Option<Slot> {
        self.ids.get(&id).copied()
    }

    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        self.slots.get(slot.0)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.slots.get_mut(slot.0)?.as_mut()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }
}
