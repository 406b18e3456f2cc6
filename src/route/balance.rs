//! Which member of a pool: the same key meets the same process, and a member that leaves moves only its own share.

use std::net::IpAddr;

use super::rules::Sticky;

/// What of a request can keep it with its like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clues<'a> {
    pub path: &'a str,
    /// The value of the Authorization header.
    pub authorization: Option<&'a str>,
    pub client: Option<IpAddr>,
}

/// A number for a request; none where any member will do.
pub(super) fn key(sticky: Sticky, clues: &Clues<'_>) -> Option<u64> {
    match sticky {
        Sticky::None => None,
        Sticky::User => clues.authorization.map(|value| hash(value.as_bytes())).or_else(|| by_address(clues)),
        Sticky::Room => room(clues.path).map(|room| hash(room.as_bytes())),
        Sticky::Origin => origin(clues.authorization?).map(|origin| hash(origin.as_bytes())),
        Sticky::Ip => by_address(clues),
    }
}

fn by_address(clues: &Clues<'_>) -> Option<u64> {
    Some(match clues.client? {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    })
}

/// The room id or alias in a path, as it is written there; ids of room version 12 have no server part.
fn room(path: &str) -> Option<&str> {
    path.split('/').find(|part| ["!", "#", "%21", "%23"].iter().any(|sigil| part.starts_with(sigil)))
}

/// The server that signed: `X-Matrix origin="example.com",key=…`.
fn origin(authorization: &str) -> Option<&str> {
    let parameters = authorization.strip_prefix("X-Matrix ")?;
    let value = parameters.split(',').find_map(|pair| pair.trim().strip_prefix("origin="))?;
    Some(value.trim_matches('"'))
}

/// FNV-1a, then mixed, since FNV alone leaves the upper bits of short keys alike.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Rendezvous hashing: the member whose name and key give the highest number.
pub(super) fn choose<'a, T>(key: u64, members: impl Iterator<Item = (&'a str, T)>) -> Option<T> {
    members.max_by_key(|(name, _)| mix(hash(name.as_bytes()) ^ key)).map(|(_, member)| member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_leaves_moves_only_its_own_share() {
        // Mutation: key modulo the number of members: seen red.
        let names = ["generic-1", "generic-2", "generic-3", "generic-4"];
        let pick = |key: u64, without: &str| {
            choose(key, names.iter().filter(|name| **name != without).map(|name| (*name, *name)))
        };
        let keys: Vec<u64> = (0..4_000_u32).map(|n| hash(&n.to_le_bytes())).collect();
        let mut shares = [0; 4];
        for key in keys {
            let before = pick(key, "").unwrap();
            shares[names.iter().position(|name| *name == before).unwrap()] += 1;
            if before != "generic-2" {
                assert_eq!(pick(key, "generic-2"), Some(before));
            }
        }
        assert!(shares.iter().all(|share| (800..1_200).contains(share)), "{shares:?}");
    }

    #[test]
    fn clues_are_found_as_they_are_written() {
        assert_eq!(room("/_matrix/client/v3/rooms/!abc/send"), Some("!abc"));
        assert_eq!(room("/_matrix/client/v3/rooms/%21abc%3Ahs/send"), Some("%21abc%3Ahs"));
        assert_eq!(room("/_matrix/client/v3/join/%23room%3Ahs"), Some("%23room%3Ahs"));
        assert_eq!(room("/_matrix/client/v3/joined_rooms"), None);
        assert_eq!(origin("X-Matrix origin=hs.example,destination=\"x\",key=\"a\""), Some("hs.example"));
        assert_eq!(origin("X-Matrix destination=\"x\",origin=\"hs:8448\",key=\"a\""), Some("hs:8448"));
        assert_eq!(origin("Bearer origin=x"), None);
    }
}
