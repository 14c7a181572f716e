//! Capabilities (capabilities(7)): which a container gets.
//!
//! Owns the default list and the rules of adding and dropping. Invariants: nothing outside of the daemon's own bounding set is ever given,
//! as the kernel would refuse the whole container; what is asked for by name and can't be given is an error, not a silent loss; the
//! inheritable and ambient sets are empty unless ambient ones were asked for (CVE-2022-24769, CVE-2022-27652).

use crate::container::Capabilities as Asked;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// Every capability, at the index that is its number (`linux/capability.h`).
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What a container has unless it says otherwise: the 14 that images have come to rely on.
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Why capabilities can't be as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// There is none of this name.
    #[error("{field}[{index}] {name:?} is no capability")]
    Unknown {
        /// The list.
        field: &'static str,
        /// Where in it.
        index: usize,
        /// What it says.
        name: String,
    },
    /// davit may not have it itself, so can't give it.
    #[error(
        "{field}[{index}] {name:?} is not in davit's own bounding set, so no container can have it"
    )]
    Missing {
        /// The list.
        field: &'static str,
        /// Where in it.
        index: usize,
        /// What it says.
        name: String,
    },
}

/// The capabilities whose bits are set, as in `/proc/<pid>/status`. A newer kernel's are left out: no OCI runtime knows their names.
pub(super) fn of_bits(bits: u64) -> Capabilities {
    let numbered = (0_u32..).zip(ALL);
    numbered
        .filter(|(number, _)| (bits >> number) & 1 == 1)
        .map(|(_, capability)| capability)
        .collect()
}

/// Whether a list asks for this or for all.
enum Named {
    All,
    One(Capability),
}

/// What an unprivileged container gets.
pub(super) fn of_container(
    asked: &Asked,
    bounding: &Capabilities,
) -> Result<LinuxCapabilities, CapabilityError> {
    let add = named("capabilities.add", &asked.add)?;
    let drop = named("capabilities.drop", &asked.drop)?;
    // ALL counts first, in whichever list: "drop ALL, add NET_BIND_SERVICE" is the usual way to ask for one.
    let mut set: Capabilities = if add.iter().any(|name| matches!(name, Named::All)) {
        bounding.clone()
    } else {
        DEFAULT.into_iter().filter(|one| bounding.contains(one)).collect()
    };
    if drop.iter().any(|name| matches!(name, Named::All)) {
        set.clear();
    }
    set.extend(held("capabilities.add", &asked.add, &add, bounding)?);
    for name in &drop {
        if let Named::One(capability) = name {
            set.remove(capability);
        }
    }
    with_ambient(asked, set, bounding)
}

/// What a privileged one gets: all that can be given.
pub(super) fn of_privileged(
    asked: &Asked,
    bounding: &Capabilities,
) -> Result<LinuxCapabilities, CapabilityError> {
    with_ambient(asked, bounding.clone(), bounding)
}

/// The kernel wants an ambient capability in the permitted and inheritable sets too.
fn with_ambient(
    asked: &Asked,
    mut set: Capabilities,
    bounding: &Capabilities,
) -> Result<LinuxCapabilities, CapabilityError> {
    let field = "capabilities.add_ambient";
    let names = named(field, &asked.add_ambient)?;
    let one_by_one = held(field, &asked.add_ambient, &names, bounding)?;
    set.extend(&one_by_one);
    let all = names.iter().any(|name| matches!(name, Named::All));
    let ambient = if all { set.clone() } else { one_by_one.into_iter().collect() };
    let mut out = LinuxCapabilities::default();
    out.set_bounding(Some(set.clone())).set_effective(Some(set.clone())).set_permitted(Some(set));
    out.set_inheritable(Some(ambient.clone())).set_ambient(Some(ambient));
    Ok(out)
}

fn named(field: &'static str, names: &[String]) -> Result<Vec<Named>, CapabilityError> {
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            parse(name).ok_or_else(|| CapabilityError::Unknown {
                field,
                index,
                name: name.chars().take(100).collect(),
            })
        })
        .collect()
}

fn parse(name: &str) -> Option<Named> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Some(Named::All);
    }
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    bare.parse().ok().map(Named::One)
}

/// Those asked for by name, if davit has them all.
fn held(
    field: &'static str,
    texts: &[String],
    names: &[Named],
    bounding: &Capabilities,
) -> Result<Vec<Capability>, CapabilityError> {
    let mut out = Vec::new();
    for (index, (name, text)) in names.iter().zip(texts).enumerate() {
        match name {
            Named::All => {}
            Named::One(capability) if bounding.contains(capability) => out.push(*capability),
            Named::One(_) => {
                return Err(CapabilityError::Missing { field, index, name: text.clone() });
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn ask(add: &[&str], drop: &[&str], add_ambient: &[&str]) -> Asked {
        Asked { add: text(add), drop: text(drop), add_ambient: text(add_ambient) }
    }

    fn sorted(set: &Option<Capabilities>) -> Vec<String> {
        let mut names: Vec<String> = set.iter().flatten().map(ToString::to_string).collect();
        names.sort();
        names
    }

    /// All but SYS_RESOURCE, as on a machine that lacks it.
    fn bounding() -> Capabilities {
        of_bits(0x1ff_feff_ffff)
    }

    #[test]
    fn the_bits_are_the_kernels_numbers() {
        let mut names = sorted(&Some(of_bits(1 << 0 | 1 << 21 | 1 << 24 | 1 << 40)));
        names.sort();
        assert_eq!(names, ["CHECKPOINT_RESTORE", "CHOWN", "SYS_ADMIN", "SYS_RESOURCE"]);
        assert_eq!(of_bits(u64::MAX).len(), 41);
        assert!(!bounding().contains(&Capability::SysResource));
    }

    #[test]
    fn adding_and_dropping_change_the_default() {
        for (asked, has, lacks, count) in [
            (ask(&[], &[], &[]), Capability::Chown, Capability::SysAdmin, 14),
            (ask(&["SYS_ADMIN"], &[], &[]), Capability::SysAdmin, Capability::SysTime, 15),
            (
                ask(&["cap_sys_time"], &["Cap_Chown"], &[]),
                Capability::SysTime,
                Capability::Chown,
                14,
            ),
            (
                ask(&["NET_BIND_SERVICE"], &["ALL"], &[]),
                Capability::NetBindService,
                Capability::Chown,
                1,
            ),
            (ask(&["all"], &["NET_RAW"], &[]), Capability::SysAdmin, Capability::NetRaw, 39),
            (ask(&["ALL"], &[], &[]), Capability::SysAdmin, Capability::SysResource, 40),
            (ask(&["NET_RAW"], &["NET_RAW"], &[]), Capability::Chown, Capability::NetRaw, 13),
            // Dropping what can't be had anyway is no mistake.
            (ask(&[], &["SYS_RESOURCE"], &[]), Capability::Chown, Capability::SysResource, 14),
        ] {
            let set = of_container(&asked, &bounding()).unwrap();
            let permitted = set.permitted().as_ref().unwrap();
            assert!(permitted.contains(&has) && !permitted.contains(&lacks), "{asked:?}");
            assert_eq!(permitted.len(), count, "{asked:?}");
            assert_eq!(set.bounding(), set.permitted());
            assert_eq!(set.effective(), set.permitted());
            assert_eq!(sorted(set.inheritable()), Vec::<String>::new(), "{asked:?}");
            assert_eq!(sorted(set.ambient()), Vec::<String>::new(), "{asked:?}");
        }
    }

    #[test]
    fn an_ambient_one_is_in_every_set_and_no_other_is_inheritable() {
        let set = of_container(&ask(&[], &["ALL"], &["NET_BIND_SERVICE"]), &bounding()).unwrap();
        for one in
            [set.bounding(), set.effective(), set.permitted(), set.inheritable(), set.ambient()]
        {
            assert_eq!(sorted(one), ["NET_BIND_SERVICE"]);
        }
        let set = of_container(&ask(&["SYS_TIME"], &["ALL"], &["ALL"]), &bounding()).unwrap();
        assert_eq!(sorted(set.ambient()), ["SYS_TIME"]);
        let set = of_privileged(&ask(&[], &["ALL"], &[]), &bounding()).unwrap();
        assert_eq!(set.permitted().as_ref().unwrap().len(), 40);
        assert_eq!(sorted(set.ambient()), Vec::<String>::new());
    }

    #[test]
    fn an_unknown_name_and_one_that_cannot_be_given_are_errors_that_name_it() {
        for (asked, message) in [
            (
                ask(&["CHOWN", "SYS_EVERYTHING"], &[], &[]),
                "capabilities.add[1] \"SYS_EVERYTHING\" is no capability",
            ),
            (
                ask(&[], &["CAP_CAP_CHOWN"], &[]),
                "capabilities.drop[0] \"CAP_CAP_CHOWN\" is no capability",
            ),
            (ask(&[], &[], &[""]), "capabilities.add_ambient[0] \"\" is no capability"),
            (
                ask(&["CAP_SYS_RESOURCE"], &[], &[]),
                "capabilities.add[0] \"CAP_SYS_RESOURCE\" is not in davit's own bounding set, so no container can have it",
            ),
            (
                ask(&[], &[], &["sys_resource"]),
                "capabilities.add_ambient[0] \"sys_resource\" is not in davit's own bounding set, so no container can have it",
            ),
        ] {
            assert_eq!(of_container(&asked, &bounding()).unwrap_err().to_string(), message);
        }
    }
}
