//! Which member of a pool: the same key meets the same process, and a member that leaves moves only its own share.

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use super::rules::Sticky;

/// What of a request can keep it with its like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clues<'a> {
    pub path: &'a str,
    pub query: &'a str,
    /// The value of the Authorization header.
    pub authorization: Option<&'a str>,
    pub client: Option<IpAddr>,
}

/// A number for a request; none where any member will do.
pub(super) fn key(sticky: Sticky, clues: &Clues<'_>) -> Option<u64> {
    match sticky {
        Sticky::None => None,
        Sticky::User => token(clues).map(user).or_else(|| by_address(clues)),
        Sticky::Room => room(clues.path).map(|room| hash(decoded(room))),
        Sticky::Origin => origin(clues.authorization?).map(|origin| hash(origin.bytes())),
        Sticky::Ip => by_address(clues),
        Sticky::Uri => Some(hash(clues.path.bytes().chain([b'?']).chain(clues.query.bytes()))),
    }
}

fn by_address(clues: &Clues<'_>) -> Option<u64> {
    Some(match clues.client? {
        IpAddr::V4(address) => hash(address.octets().into_iter()),
        IpAddr::V6(address) => hash(address.octets().into_iter()),
    })
}

/// The access token, from where the Matrix specification allows it.
fn token<'a>(clues: &Clues<'a>) -> Option<&'a str> {
    let header = clues.authorization.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let pairs = || clues.query.split('&').filter_map(|pair| pair.split_once('='));
    header.or_else(|| pairs().find(|(name, _)| *name == "access_token").map(|(_, token)| token))
}

/// All of a user's devices meet in one process, without asking whose token it is: Synapse's own tokens name the user
/// (`synapse/handlers/auth.py`, `generate_access_token`). Others, like those of the Matrix Authentication Service, keep
/// one device together.
fn user(token: &str) -> u64 {
    let localpart = token.strip_prefix("syt_").and_then(|rest| rest.split_once('_')).map(|(user, _)| user);
    hash(localpart.unwrap_or(token).bytes())
}

/// A token that stands for any of a user's own: it has the part that names the user, and nothing else.
pub fn token_of(user_id: &str) -> Option<String> {
    let (localpart, _) = user_id.strip_prefix('@')?.split_once(':')?;
    Some(format!("syt_{}_", BASE64_STANDARD_NO_PAD.encode(localpart)))
}

/// The room id or alias in a path, as it is written there; ids of room version 12 have no server part.
fn room(path: &str) -> Option<&str> {
    path.split('/').find(|part| ["!", "#", "%21", "%23"].iter().any(|sigil| part.starts_with(sigil)))
}

/// Bytes with what is percent-encoded decoded: clients write `!` either way, and it is one room.
fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut bytes = text.bytes();
    std::iter::from_fn(move || {
        let byte = bytes.next()?;
        let mut ahead = bytes.clone();
        let digit =
            |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                bytes = ahead;
                Some(high << 4 | low)
            }
            (_, _, _) => Some(byte),
        }
    })
}

/// The server that signed: `X-Matrix origin="example.com",key=…`.
fn origin(authorization: &str) -> Option<&str> {
    let (scheme, parameters) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("x-matrix") {
        return None;
    }
    let named = |pair: &&str| pair.get(..7).is_some_and(|name| name.eq_ignore_ascii_case("origin="));
    let value = parameters.split(',').map(str::trim).find(named)?;
    Some(value[7..].trim_matches('"'))
}

/// FNV-1a, then mixed, since FNV alone leaves the upper bits of short keys alike.
pub(super) fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Rendezvous hashing: the member whose own number and the key give the highest; a member that leaves moves only its own
/// share, and gets it back.
pub(super) fn choose<T>(key: u64, members: impl Iterator<Item = (u64, T)>) -> Option<T> {
    members.max_by_key(|(number, _)| mix(number ^ key)).map(|(_, member)| member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_leaves_moves_only_its_own_share() {
        // Mutation: key modulo the number of members: seen red.
        let names = ["generic-1", "generic-2", "generic-3", "generic-4"];
        let pick = |key: u64, without: &str| {
            let left = names.iter().filter(|name| **name != without);
            choose(key, left.map(|name| (hash(name.bytes()), *name)))
        };
        let keys: Vec<u64> = (0..4_000_u32).map(|n| hash(n.to_le_bytes().into_iter())).collect();
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
        assert_eq!(origin("x-matrix Origin=hs, key=x"), Some("hs"));
        assert_eq!(origin("Bearer origin=x"), None);
    }

    #[test]
    fn a_user_is_known_by_any_of_the_tokens_and_a_room_however_it_is_written() {
        // Mutations, each seen red: `syt_` tokens hashed whole; percent-encoding not decoded; the query not looked at.
        fn of_user(authorization: Option<&str>, query: &str) -> Option<u64> {
            key(Sticky::User, &Clues { authorization, query, ..Clues::default() })
        }
        let alice = of_user(Some("Bearer syt_YWxpY2U_one_1"), "");
        assert_eq!(of_user(Some("bearer  syt_YWxpY2U_two_2"), ""), alice);
        assert_eq!(of_user(None, "since=x&access_token=syt_YWxpY2U_three_3"), alice);
        let any = token_of("@alice:example.com").unwrap();
        assert_eq!(of_user(Some(&format!("Bearer {any}")), ""), alice);
        assert_ne!(of_user(Some("Bearer syt_Ym9i_one_1"), ""), alice);
        assert_ne!(of_user(Some("Bearer mat_one"), ""), of_user(Some("Bearer mat_two"), ""));
        assert_eq!(of_user(None, "since=x"), None);

        let of_room = |path| key(Sticky::Room, &Clues { path, ..Clues::default() });
        let room = of_room("/rooms/!abc:hs.example/send");
        for same in ["/rooms/%21abc:hs.example/send", "/rooms/%21abc%3Ahs.example/x", "/x/!abc%3ahs.example"]
        {
            assert_eq!(of_room(same), room, "{same}");
        }
        assert_ne!(of_room("/rooms/!abd:hs.example/send"), room);
        assert!(of_room("/rooms/!v12roomwithoutserver/send").is_some());
        assert_eq!(decoded("%2x%").collect::<Vec<_>>(), b"%2x%");
        assert_eq!(token_of("alice"), None);
    }
}
