//! How the containers stand: what `davit ps` shows and CRI's list has no word for.

use davit_proto::admin::{Standing, StandingsResponse};
use davit_runtime::Runtime;
use davit_runtime::container::{ContainerState, ContainerView};

/// Of every container that anybody was told of.
pub(super) fn all(runtime: &Runtime) -> StandingsResponse {
    let pods = runtime.sandboxes();
    let views = pods.iter().flat_map(|pod| pod.containers.values());
    StandingsResponse { containers: views.map(|view| of(view)).collect() }
}

fn of(view: &ContainerView) -> Standing {
    let standing = Standing {
        id: view.id.to_string(),
        state: view.state.name().to_owned(),
        pid: view.state.pid().unwrap_or_default(),
        started_at: view.state.started_at().unwrap_or_default(),
        paused_at: view.state.paused_at().unwrap_or_default(),
        ..Standing::default()
    };
    match &view.state {
        ContainerState::Exited(exit) => Standing {
            finished_at: exit.finished_at,
            exit_code: exit.code,
            reason: exit.reason.as_str().to_owned(),
            ..standing
        },
        ContainerState::Creating
        | ContainerState::Created { .. }
        | ContainerState::Running { .. } => standing,
    }
}
