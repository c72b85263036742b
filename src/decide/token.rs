//! Which token a resource means.

use crate::api::{TokenRef, Version, WorkspaceTokenRotation};
use crate::decide::entity::Entity;
use crate::decide::evidence::{Live, Token};
use crate::id::is_same;
use crate::reason::{Blocked, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

/// Ids of tokens with one name that are shown.
const MOST_IDS: usize = 10;

/// A token of a list as it is kept: all its texts in one piece, because a list may have tens of thousands.
#[derive(Debug, PartialEq)]
pub struct Packed {
    /// Id, name, scope, kind, short token, and then the entities.
    texts: Box<str>,
    /// Where each of them ends.
    ends: Box<[u32]>,
    /// Last rotation, start, expiry and last use, whole seconds: the vendor's times are cut to them.
    times: [Option<i64>; 4],
    odd: Option<&'static str>,
}

impl Packed {
    /// Of this token.
    pub fn new(token: &Token) -> Self {
        let short = token.version.short_token.as_deref().unwrap_or_default();
        let texts = [&token.id, &token.name, &token.scope, &token.kind, short];
        let entities = token.entities.iter().map(String::as_str);
        let (mut all, mut ends) = (String::new(), Vec::new());
        for text in texts.into_iter().chain(entities) {
            all.push_str(text);
            // No answer of the vendor's is that long.
            ends.push(u32::try_from(all.len()).unwrap_or(u32::MAX));
        }
        let rotated_at = token.version.rotated_at.as_ref().map(|at| at.0);
        Self {
            texts: all.into(),
            ends: ends.into(),
            times: [rotated_at, token.starts, token.ends, token.last_used]
                .map(|at| at.map(|at| at.as_second())),
            odd: token.odd,
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.text(0)
    }

    fn name(&self) -> &str {
        self.text(1)
    }

    fn scope(&self) -> &str {
        self.text(2)
    }

    fn text(&self, nth: usize) -> &str {
        let begin = nth.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[begin as usize..self.ends[nth] as usize]
    }

    /// The token.
    pub fn unpack(&self) -> Token {
        let text = |nth| self.text(nth).to_owned();
        let times = (self.times).map(|at| at.and_then(|at| Timestamp::from_second(at).ok()));
        let [rotated_at, starts, ends, last_used] = times;
        Token {
            id: text(0),
            name: text(1),
            scope: text(2),
            kind: text(3),
            entities: (5..self.ends.len()).map(text).collect(),
            version: Version {
                rotated_at: rotated_at.map(Time),
                short_token: Some(text(4)).filter(|short| !short.is_empty()),
            },
            starts,
            ends,
            last_used,
            odd: self.odd,
        }
    }
}

/// One token of a list. Of one that is not wanted only hashes are kept: enough to tell that it is there.
#[derive(Debug)]
pub struct Listed {
    id: u64,
    name: u64,
    token: Option<Arc<Packed>>,
}

impl Listed {
    /// Of this token; `known` is another list of the same Workspace, which most likely has the same of it.
    pub fn new(token: &Token, is_wanted: bool, known: &Tokens) -> Self {
        let id = hash_of_id(&token.id);
        let keep = || {
            let packed = Packed::new(token);
            let same = known.with_id_hash(id).find_map(|it| {
                let kept = it.token.as_ref()?;
                (**kept == packed).then(|| kept.clone())
            });
            same.unwrap_or_else(|| Arc::new(packed))
        };
        Self {
            id,
            name: hash(&token.name),
            token: is_wanted.then(keep),
        }
    }

    /// The token, if it was wanted.
    pub fn token(&self) -> Option<Token> {
        self.token.as_deref().map(Packed::unpack)
    }

    /// What tells it from others; `None`: it has no id.
    pub fn id(&self) -> Option<u64> {
        (self.id != hash_of_id("")).then_some(self.id)
    }
}

/// A hash under a random key that never leaves this process, so nobody can choose two texts that have the same hash.
fn hash(text: &str) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(text)
}

fn hash_of_id(id: &str) -> u64 {
    hash(&id.to_ascii_lowercase())
}

/// The tokens of a list, found by name and by id without looking at all of them.
#[derive(Default)]
pub struct Tokens {
    /// In the order of the hashes of their names.
    by_name: Vec<Listed>,
    /// Places in there, in the order of the hashes of the ids.
    by_id: Vec<u32>,
}

impl Tokens {
    /// All of these.
    pub fn new(mut tokens: Vec<Listed>) -> Self {
        tokens.sort_by_key(|token| token.name);
        tokens.shrink_to_fit();
        let mut by_id: Vec<_> = (0..).take(tokens.len()).collect();
        by_id.sort_by_key(|place: &u32| tokens[*place as usize].id);
        Self {
            by_name: tokens,
            by_id,
        }
    }

    /// Whether there may be a token that is asked for and was not wanted when the list was read.
    pub fn lacks(&self, asked: &TokenRef) -> bool {
        let of_name = asked.name.iter().flat_map(|name| self.with_name(name));
        let of_id = asked
            .id
            .iter()
            .flat_map(|id| self.with_id_hash(hash_of_id(id)));
        of_name.chain(of_id).any(|listed| listed.token.is_none())
    }

    /// Those of this name, as far as they were wanted.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Packed> {
        let kept = self
            .with_name(name)
            .iter()
            .filter_map(|it| it.token.as_deref());
        kept.filter(move |token| token.name() == name)
    }

    /// The one of this id, however it is written, if it was wanted.
    pub fn with_id(&self, id: &str) -> Option<Token> {
        let mut kept = self
            .with_id_hash(hash_of_id(id))
            .filter_map(|it| it.token.as_deref());
        kept.find(|token| is_same(token.id(), id))
            .map(Packed::unpack)
    }

    /// Whether there is one of this id, wanted or not.
    pub fn has_id(&self, id: &str) -> bool {
        self.with_id_hash(hash_of_id(id)).next().is_some()
    }

    fn with_name(&self, name: &str) -> &[Listed] {
        let name = hash(name);
        let begin = self.by_name.partition_point(|token| token.name < name);
        let rest = &self.by_name[begin..];
        &rest[..rest.partition_point(|token| token.name == name)]
    }

    fn with_id_hash(&self, id: u64) -> impl Iterator<Item = &Listed> {
        let listed = |place: &u32| &self.by_name[*place as usize];
        let begin = self.by_id.partition_point(|place| listed(place).id < id);
        let rest = self.by_id[begin..].iter().map(listed);
        rest.take_while(move |token| token.id == id)
    }
}

/// The token that a reference means among those of its entity: by id, or by name among those of its scope, exactly one.
/// `fresh`: they were read just now.
pub fn among(entity: &Entity, asked: &TokenRef, tokens: &Tokens, fresh: bool) -> Live {
    let scope = entity.scope;
    if tokens.lacks(asked) {
        return Live::Unavailable {
            message: format!(
                "the list of the tokens of {entity} was read before this token was asked for"
            ),
            retry_after: None,
        };
    }
    let not_found = |what: &str| {
        let message = format!(
            "no token {what} in {entity}; check token, {} and the credential's role",
            entity.field()
        );
        Blocked::new(Reason::TokenNotFound, message)
    };
    let refused = |blocked| Live::Refused { blocked, fresh };
    let known = |token: Token| match token.odd {
        None => Live::Token { token, fresh },
        Some(field) => Live::Unavailable {
            message: format!(
                "in the list of {entity} the field {field} of the token's record is not as documented"
            ),
            retry_after: None,
        },
    };
    let (Some(name), None) = (&asked.name, &asked.id) else {
        let id = asked.id.as_deref().unwrap_or_default();
        return (tokens.with_id(id))
            .map_or_else(|| refused(not_found(&format!("with id {id}"))), known);
    };
    let of_name: Vec<_> = tokens.named(name).collect();
    // One whose scope cannot be read may be a twin.
    let matching: Vec<_> = (of_name.iter())
        .filter(|token| token.scope() == scope.of_record() || token.scope().is_empty())
        .collect();
    match matching[..] {
        [token] => known(token.unpack()),
        [] => match of_name.first() {
            // Another rule says that its scope is wrong.
            Some(other) => known(other.unpack()),
            None => refused(not_found(&format!("named {name:?}"))),
        },
        _ => {
            let ids = matching.iter().take(MOST_IDS);
            let ids: Vec<_> = ids.map(|token| token.id()).collect();
            refused(Blocked::new(
                Reason::TokenAmbiguous,
                format!(
                    "{} {scope} tokens are named {name:?}; use token.id, one of {}",
                    matching.len(),
                    ids.join(", ")
                ),
            ))
        }
    }
}

/// Whether `resource` is about this token of `entity`: it names it, or it holds a value of it.
pub fn is_meant(resource: &WorkspaceTokenRotation, entity: &Entity, token: &Token) -> bool {
    let spec = &resource.spec;
    let status = resource.status.as_ref();
    let held = status.and_then(|status| status.token.as_ref());
    let is_named = spec.references().any(|(_, asked)| {
        let is_name = asked.name.as_ref() == Some(&token.name);
        asked.has_id(&token.id) || is_name && Entity::of(spec).may_be(entity)
    });
    is_named || held.is_some_and(|held| held.id == token.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_name_and_by_id_however_many_share_a_name() {
        let token = |id: &str, name: &str| Token {
            id: id.into(),
            name: name.into(),
            ..Token::default()
        };
        let all = [("B2", "b"), ("a1", "a"), ("c3", "b"), ("d4", "")];
        let all = all.map(|(id, name)| token(id, name));
        let list = |is_wanted: fn(&Token) -> bool, known: &Tokens| {
            let listed = all.iter().map(|it| Listed::new(it, is_wanted(it), known));
            Tokens::new(listed.collect())
        };
        let tokens = list(|_| true, &Tokens::default());
        let named = |name| {
            let mut ids: Vec<_> = tokens.named(name).map(Packed::id).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(named("b"), ["B2", "c3"]);
        assert_eq!((named("a"), named("")), (vec!["a1"], vec!["d4"]));
        assert!(named("0").is_empty() && named("aa").is_empty() && named("z").is_empty());
        for it in &all {
            for id in [&it.id, &it.id.to_ascii_uppercase()] {
                assert_eq!(tokens.with_id(id).as_ref(), Some(it));
                assert!(tokens.has_id(id));
            }
        }
        assert!(tokens.with_id("e5").is_none() && Tokens::default().with_id("").is_none());
        assert!(!tokens.has_id("e5"));

        // A token that was not wanted is still known to exist.
        let some = list(|token| token.name != "b", &tokens);
        let by_name = |name: &str| TokenRef {
            name: Some(name.into()),
            ..TokenRef::default()
        };
        let by_id = |id: &str| TokenRef {
            id: Some(id.into()),
            ..TokenRef::default()
        };
        assert!(some.lacks(&by_name("b")) && some.lacks(&by_id("b2")) && some.has_id("c3"));
        assert!(some.named("b").next().is_none() && some.with_id("B2").is_none());
        assert!(!some.lacks(&by_name("a")) && !some.lacks(&by_id("a1")));
        assert!(!some.lacks(&by_name("z")) && !some.lacks(&by_id("e5")));

        // What another list has too is kept once.
        let of = |tokens: &Tokens| Arc::as_ptr(tokens.with_name("a")[0].token.as_ref().unwrap());
        assert_eq!(of(&some), of(&tokens));
        assert_ne!(of(&list(|_| true, &Tokens::default())), of(&tokens));
    }

    #[test]
    fn a_token_is_kept_as_it_was_read() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let bare = Token {
            id: "cl1".into(),
            ..Token::default()
        };
        let full = Token {
            name: "Bücher".into(),
            scope: "WORKSPACE".into(),
            kind: "STANDARD".into(),
            entities: vec!["w1".into(), String::new(), "w2".into()],
            version: Version {
                rotated_at: at(1).map(Time),
                short_token: Some("abc".into()),
            },
            starts: at(-2),
            ends: at(3),
            last_used: at(4),
            odd: Some("roles"),
            ..bare.clone()
        };
        for token in [bare, full] {
            assert_eq!(Packed::new(&token).unpack(), token);
        }
    }
}
