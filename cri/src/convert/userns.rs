//! User namespaces, and whose ids are whose in them.

use super::error::{InvalidField, refuse, variant};
use davit_proto::cri::{self, NamespaceMode, UserNamespace};
use davit_runtime::sandbox::{IdMapping, IdMappings};

/// The kernel takes no more ranges in one map.
const RANGES: usize = 340;

/// A user namespace; `None` is the host's. With a mapping as the interface wants it: one range of each kind, which begins with root.
pub(super) fn user_namespace(
    field: &str,
    options: UserNamespace,
) -> Result<Option<IdMappings>, InvalidField> {
    let UserNamespace { mode, uids, gids } = options;
    let mode_field = format!("{field}.mode");
    match variant(&mode_field, mode)? {
        NamespaceMode::Node if uids.is_empty() && gids.is_empty() => return Ok(None),
        NamespaceMode::Node => {
            return Err(refuse(field, &(uids, gids), "has mappings, and NODE takes none"));
        }
        NamespaceMode::Pod => {}
        mode @ (NamespaceMode::Container | NamespaceMode::Target) => {
            return Err(refuse(mode_field, &mode, "is neither POD nor NODE"));
        }
    }
    let one = |name: &str, ranges: Vec<cri::IdMapping>| -> Result<Vec<IdMapping>, InvalidField> {
        let field = format!("{field}.{name}");
        let [range] = ranges.as_slice() else {
            return Err(refuse(field, &ranges, "is not exactly one mapping"));
        };
        if range.container_id != 0 {
            let problem = "is not 0: root would be nobody";
            return Err(refuse(format!("{field}[0].container_id"), &range.container_id, problem));
        }
        if range.host_id == 0 {
            let problem = "is the host's root, whom no pod's user may be";
            return Err(refuse(format!("{field}[0].host_id"), &range.host_id, problem));
        }
        mappings(&field, ranges)
    };
    Ok(Some(IdMappings { uids: one("uids", uids)?, gids: one("gids", gids)? }))
}

/// Ranges of ids, none of which is empty, goes beyond the last id, or says something else of an id than another does.
pub(super) fn mappings(
    field: &str,
    wire: Vec<cri::IdMapping>,
) -> Result<Vec<IdMapping>, InvalidField> {
    if wire.len() > RANGES {
        return Err(refuse(field, &wire.len(), "is more mappings than the kernel takes, 340"));
    }
    let mut out: Vec<IdMapping> = Vec::new();
    for (at, range) in wire.into_iter().enumerate() {
        let cri::IdMapping { host_id: host, container_id: inside, length } = range;
        let field = |name: &str| format!("{field}[{at}].{name}");
        // The last 32-bit number is no id: it means none.
        let fits = |first: u32| first.checked_add(length).is_some();
        if length == 0 || !fits(host) || !fits(inside) {
            let problem = "is not between 1 and what is left of the ids";
            return Err(refuse(field("length"), &length, problem));
        }
        let overlap = |one: u32, its: u32, other: u32| one < other + length && other < one + its;
        if out.iter().any(|known| overlap(known.inside, known.length, inside)) {
            return Err(refuse(
                field("container_id"),
                &inside,
                "begins a range that another overlaps",
            ));
        }
        if out.iter().any(|known| overlap(known.host, known.length, host)) {
            return Err(refuse(field("host_id"), &host, "begins a range that another overlaps"));
        }
        out.push(IdMapping { inside, host, length });
    }
    Ok(out)
}

/// Ranges of ids in CRI's words.
pub(super) fn mappings_to_cri(ranges: &[IdMapping]) -> Vec<cri::IdMapping> {
    let one = |range: &IdMapping| {
        let IdMapping { inside, host, length } = *range;
        cri::IdMapping { host_id: host, container_id: inside, length }
    };
    ranges.iter().map(one).collect()
}

/// A pod's own user namespace in CRI's words.
pub(super) fn to_cri(IdMappings { uids, gids }: &IdMappings) -> UserNamespace {
    UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: mappings_to_cri(uids),
        gids: mappings_to_cri(gids),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
        cri::IdMapping { host_id, container_id, length }
    }

    fn pod(uids: &[cri::IdMapping], gids: &[cri::IdMapping]) -> UserNamespace {
        UserNamespace { mode: NamespaceMode::Pod.into(), uids: uids.to_vec(), gids: gids.to_vec() }
    }

    #[test]
    fn a_pods_mappings_are_told_back_as_they_came() {
        let asked = pod(&[range(0, 100_000, 65536)], &[range(0, 300_000, 65536)]);
        let spec = user_namespace("u", asked.clone()).unwrap().unwrap();
        assert_eq!(spec.host_root(), Some((100_000, 300_000)));
        assert_eq!(to_cri(&spec), asked);
        let node = UserNamespace { mode: NamespaceMode::Node.into(), ..Default::default() };
        assert_eq!(user_namespace("u", node), Ok(None));
        // As many as there can be.
        let most = [range(0, 1, u32::MAX - 1)];
        assert!(user_namespace("u", pod(&most, &most)).is_ok());
    }

    #[test]
    fn what_is_no_user_namespace_is_refused_by_its_field_and_value() {
        let good = [range(0, 1000, 100)];
        let with = |mode: NamespaceMode, uids: &[cri::IdMapping]| UserNamespace {
            mode: mode.into(),
            ..pod(uids, uids)
        };
        for (asked, refused) in [
            (pod(&[], &good), "u.uids [] is not exactly one mapping"),
            (pod(&good, &[]), "u.gids [] is not exactly one mapping"),
            (pod(&[good[0], good[0]], &good), "u.uids [IdMapping"),
            (pod(&good, &[good[0], range(100, 9, 1)]), "u.gids [IdMapping"),
            (
                pod(&[range(1, 1000, 100)], &good),
                "u.uids[0].container_id 1 is not 0: root would be nobody",
            ),
            (pod(&good, &[range(0, 0, 100)]), "u.gids[0].host_id 0 is the host's root"),
            (pod(&[range(0, 1000, 0)], &good), "u.uids[0].length 0 is not between"),
            (pod(&good, &[range(0, 2, u32::MAX - 1)]), "u.gids[0].length 4294967294"),
            (with(NamespaceMode::Node, &good), "u ([IdMapping"),
            (with(NamespaceMode::Container, &[]), "u.mode Container is neither POD nor NODE"),
            (with(NamespaceMode::Target, &good), "u.mode Target is neither POD nor NODE"),
            (UserNamespace { mode: 9, ..Default::default() }, "u.mode 9 is no value of this field"),
        ] {
            let told = user_namespace("u", asked).unwrap_err().to_string();
            assert!(told.starts_with(refused), "{told}");
        }
    }

    #[test]
    fn ranges_of_a_mount_may_be_many_but_not_overlap() {
        let of = |ranges: &[cri::IdMapping]| {
            mappings("m", ranges.to_vec()).map_err(|refused| refused.field)
        };
        assert_eq!(of(&[range(0, 100, 10), range(10, 90, 10)]).map(|both| both.len()), Ok(2));
        assert_eq!(of(&[range(0, 0, 10)]).map(|one| one.len()), Ok(1));
        assert_eq!(of(&[range(0, 100, 10), range(9, 200, 1)]), Err("m[1].container_id".into()));
        assert_eq!(of(&[range(0, 100, 10), range(10, 91, 10)]), Err("m[1].host_id".into()));
        assert_eq!(of(&vec![range(0, 0, 1); 341]), Err("m".into()));
    }
}
