//! The rules that the model can leave out, one at a time, to show that each is needed.

/// A rule of docs/concurrency.md. Its text says what happens without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// W1: an encoded copy counts only while its base has a plain one. Without: the base is not looked at.
    BaseOfLeaned,
    /// W1: that also holds for copies of the own session when the writer looks anew. Without: they always count.
    BaseOfOwn,
    /// W2: a commit looks again at what was condemned meanwhile. Without: it does not.
    LookAgain,
    /// W2: what was leaned on in a retired segment is looked up again. Without: only what is condemned is.
    RetiredIsDoubtful,
    /// W2: a fenced session does not commit, nor who adopted it. Without: it does.
    FencedCommit,
    /// W2: a session that was published does not commit again, nor who adopted it. Without: it does.
    PublishedOnce,
    /// W2: a writer names each session whose packs its segments list as adopted. Without: only those it looked into.
    OwnersAreAdopted,
    /// W2: the parent is still live. Without: nobody asks.
    ParentIsLive,
    /// Names: two sessions never give the same name to a pack. Without: a pack is named by its content.
    UniqueNames,
    /// G1: CONDEMN follows exactly the entry up to which was marked. Without: it is appended wherever the log ends.
    CondemnLooksAgain,
    /// G1: of the base of a copy that stays, a plain copy stays. Without: bases are not kept for their own sake.
    BaseStays,
    /// G1: an encoded copy whose base is gone does not count as the one that stays. Without: it does.
    CopyWithoutBaseIsNone,
    /// G1: a sound copy is not given up for one that is known to be damaged. Without: any copy that stays will do.
    SoundStays,
    /// G1: an encoded copy is sound only while a sound plain copy of its base stays. Without: a damaged one will do.
    BaseIsSound,
    /// G1 for copies: the copy that stays was read before another one leaves. Without: what no AUDIT calls damaged will do.
    StaysIsRead,
    /// G1 for copies: a copy also leaves with its base. Without: only with its own pack.
    LeavesWithBase,
    /// G1: a collector whose session was fenced publishes nothing. Without: it does.
    FencedCollector,
    /// G2: a DELETE names a pack before its object is removed. Without: being condemned is enough.
    DeleteFirst,
    /// G2: only packs whose objects are removed, and that the new segments leave out, are gone. Without: the old segments
    /// stay.
    GoneIsUnlisted,
    /// G3: a FENCE before objects that no segment lists are removed. Without: they are removed at once.
    FenceFirst,
    /// G3: a session's key is removed only once the session is fenced. Without: being published is enough.
    KeyAfterFence,
    /// U1: a forgotten snapshot comes back only with the bases that it needs. Without: bases are not looked at.
    BaseComesBack,
    /// U1: packs that are condemned come back. Without: only the snapshot does.
    PacksComeBack,
}

impl Rule {
    pub const ALL: [Self; 23] = [
        Self::BaseOfLeaned,
        Self::BaseOfOwn,
        Self::LookAgain,
        Self::RetiredIsDoubtful,
        Self::FencedCommit,
        Self::PublishedOnce,
        Self::OwnersAreAdopted,
        Self::ParentIsLive,
        Self::UniqueNames,
        Self::CondemnLooksAgain,
        Self::BaseStays,
        Self::CopyWithoutBaseIsNone,
        Self::SoundStays,
        Self::BaseIsSound,
        Self::StaysIsRead,
        Self::LeavesWithBase,
        Self::FencedCollector,
        Self::DeleteFirst,
        Self::GoneIsUnlisted,
        Self::FenceFirst,
        Self::KeyAfterFence,
        Self::BaseComesBack,
        Self::PacksComeBack,
    ];
}

/// All rules but at most one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    omitted: Option<Rule>,
}

impl Rules {
    pub const ALL: Self = Self { omitted: None };

    pub fn without(rule: Rule) -> Self {
        Self { omitted: Some(rule) }
    }

    pub fn has(self, rule: Rule) -> bool {
        self.omitted != Some(rule)
    }
}
