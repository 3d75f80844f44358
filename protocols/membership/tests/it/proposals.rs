//! Records on their way from admin to admin.

use ginnel_membership::build;
use ginnel_membership::invite::Pasted;
use ginnel_membership::{Malformed, PasteError, Proposal, Record, Refusal};
use proptest::prelude::*;

use crate::rules::two_of_three;
use crate::strings::{founding, invite};
use crate::world::{DAY, Machine, START, World};

#[test]
fn proposal_travels_until_enough_have_signed() {
    let (mut world, admins) = two_of_three();
    let record = world.invite_record(&Machine::new(1));
    assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
    let proposal = Proposal::new(world.network, &record).unwrap();
    assert_eq!(proposal.missing(world.state()), 1);
    let text = proposal.to_string();
    assert!(text.starts_with("ginnel-sign-"));

    let mut received: Proposal = text.parse().unwrap();
    assert_eq!((&received, received.network()), (&proposal, world.network));
    assert!(matches!(received.record(), Record::Invite(_)));
    received.cosign(&admins[0]).unwrap();
    assert_eq!(received.missing(world.state()), 1);
    received.cosign(&admins[1]).unwrap();
    assert_eq!((received.missing(world.state()), received.signers().len()), (0, 2));
    world.append(&received.encode()).unwrap();
}

#[test]
fn strangers_and_bad_signatures_do_not_count() {
    let (world, _) = two_of_three();
    let mut record = world.invite_record(&Machine::new(1));
    let mut by_stranger = Proposal::new(world.network, &record).unwrap();
    by_stranger.cosign(&Machine::new(9).key).unwrap();
    assert_eq!(by_stranger.missing(world.state()), 1);
    *record.last_mut().unwrap() ^= 1;
    assert_eq!(Proposal::new(world.network, &record).unwrap().missing(world.state()), 2);
}

#[test]
fn proposal_is_not_poisoned_on_its_way() {
    let (mut world, admins) = two_of_three();
    let invite = world.invite_record(&Machine::new(1));
    let mut proposal = Proposal::new(world.network, &invite).unwrap();
    proposal.cosign(&admins[0]).unwrap();
    // Somebody adds signatures until there is room for no other one, a false one in the name of the next admin among them.
    let mut false_one = Proposal::new(world.network, &invite).unwrap();
    false_one.cosign(&admins[1]).unwrap();
    let mut bytes = false_one.encode();
    let next = admins[1].member_key().to_bytes();
    let at = bytes.windows(32).position(|window| window == next).unwrap();
    bytes[at + 40] ^= 1;
    let mut poisoned = Proposal::new(world.network, &bytes).unwrap();
    for seed in 50.. {
        if poisoned.cosign(&Machine::new(seed).key).is_err() {
            break;
        }
    }
    assert!(poisoned.signers().len() > 6);
    let mut received: Proposal = poisoned.to_string().parse().unwrap();
    received.prune(world.state());
    assert_eq!((received.missing(world.state()), received.signers().len()), (1, 1));
    received.cosign(&admins[1]).unwrap();
    assert_eq!(received.missing(world.state()), 0);
    world.append(&received.encode()).unwrap();
}

#[test]
fn proposal_outlives_an_admin_who_signed_it() {
    let (mut world, admins) = two_of_three();
    let mut proposal = Proposal::new(world.network, &world.invite_record(&Machine::new(1))).unwrap();
    proposal.cosign(&admins[1]).unwrap();
    let change =
        world.admin_change_record(&[&admins[0], &admins[1]], 2, &[admins[0].member_key(), admins[2].member_key()]);
    world.append(&change).unwrap();
    proposal.cosign(&admins[2]).unwrap();
    assert_eq!(proposal.missing(world.state()), 0);
    assert_eq!(world.append(&proposal.encode()), Err(Refusal::NotAuthorised));
    proposal.prune(world.state());
    world.append(&proposal.encode()).unwrap();
}

#[test]
fn nobody_is_asked_to_sign_away_a_membership() {
    let world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    for record in [
        world.rotation_record(&a, 1, "laptop", &b),
        world.update_record(&a, 1, "laptop"),
        world.member_record(&a, "laptop"),
        world.lease_record(),
        world.log[0].record.clone(),
    ] {
        let kind = record[1];
        let refusal = Proposal::new(world.network, &record);
        assert_eq!(refusal, Err(Malformed::Value(kind, "a proposal's record type")));
    }
    let text = build::revoke_record(&world.network, &world.admin, a.id());
    assert!(Proposal::new(world.network, &text).is_ok());
}

#[test]
fn longest_proposal_fits_and_wrong_strings_are_named() {
    let (world, admins) = two_of_three();
    let keys: Vec<_> = (1..=8).map(|seed| Machine::new(seed).id()).collect();
    let record = world.admin_change_record(&[&admins[0]], 2, &keys);
    let mut proposal = Proposal::new(world.network, &record).unwrap();
    for seed in 1..=7 {
        proposal.cosign(&Machine::new(seed).key).unwrap();
    }
    assert_eq!(proposal.cosign(&Machine::new(8).key), Err(Malformed::Count(8, "signatures")));
    let text = proposal.to_string();
    assert_eq!(text.parse(), Ok(proposal));
    let folded: String = text.chars().flat_map(|character| [character, '\n']).collect();
    assert!(folded.parse::<Proposal>().is_ok());
    assert_eq!(text[..text.len() - 1].parse::<Proposal>(), Err(PasteError::Truncated));
    assert_eq!(format!("{text}A").parse::<Proposal>(), Err(PasteError::Trailing));
    assert_eq!("ginnel-sig".parse::<Proposal>(), Err(PasteError::Truncated));
    assert!(matches!(text.parse::<Pasted>(), Err(PasteError::ProposalNotInvite)));
    assert_eq!(invite().to_string().parse::<Proposal>(), Err(PasteError::NotProposal));
    assert_eq!(founding().to_string().parse::<Proposal>(), Err(PasteError::NotProposal));
    let invites =
        build::invite_record(&world.network, &admins[0], Machine::new(1).invite.invite_key(), START + DAY, None);
    assert!(Proposal::new(world.network, &invites).unwrap().to_string().len() < 512);
}

proptest! {
    #[test]
    fn mistyped_proposals_are_noticed(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_-]") {
        let (world, _) = two_of_three();
        let text = Proposal::new(world.network, &world.invite_record(&Machine::new(1))).unwrap().to_string();
        let at = at.index(text.len());
        let mut bad = text.clone();
        bad.replace_range(at..=at, &with);
        prop_assert!(bad == text || bad.parse::<Proposal>().is_err());
    }
}
