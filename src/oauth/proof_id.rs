//! Knows what makes two DPoP proofs the same proof: the key and the `jti` (RFC 9449 §11.1).

use crate::jose::thumbprint::Thumbprint;

/// Which proof it is, in constant space however long its `jti` is.
///
/// A `jti` counts only together with the key that signed it: whoever learns another client's `jti`
/// cannot use it up. The target is left out, although RFC 9449 §11.1 lets a `jti` come again with
/// another one: a client that means to be understood everywhere never repeats one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofId {
    key: Thumbprint,
    id: Thumbprint,
}

impl ProofId {
    /// Of the proof with this `jti`, signed with the key that has the thumbprint `jkt`.
    pub fn of(jkt: Thumbprint, jti: &str) -> Self {
        // The thumbprint has a fixed length, so no two pairs make the same input.
        let input = [jkt.octets(), jti.as_bytes()].concat();
        Self { key: jkt, id: Thumbprint::of(&input) }
    }

    /// The key that signed the proof.
    pub const fn key(&self) -> &Thumbprint {
        &self.key
    }

    /// The SHA-256 of the key's thumbprint and the `jti`.
    pub const fn id(&self) -> &Thumbprint {
        &self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_jti_both_count_and_nothing_else() {
        let (mine, other) = (Thumbprint::of(b"mine"), Thumbprint::of(b"other"));
        let proof = ProofId::of(mine, "a");
        assert_eq!(proof, ProofId::of(mine, "a"));
        for different in [ProofId::of(mine, "b"), ProofId::of(mine, ""), ProofId::of(other, "a")] {
            assert_ne!(proof.id(), different.id());
        }
        assert_eq!(proof.key(), ProofId::of(mine, "b").key());
    }

    #[test]
    fn the_id_is_the_digest_of_both() {
        let jkt = Thumbprint::from_octets([7; 32]);
        let expected = Thumbprint::of(&[&[7; 32], &b"e1j3V_bKic8"[..]].concat());
        assert_eq!(ProofId::of(jkt, "e1j3V_bKic8").id(), &expected);
    }
}
