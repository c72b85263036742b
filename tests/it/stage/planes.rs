//! The control planes of this process, and operators that several tests share.
//!
//! An operator for a whole cluster sees all resources of its control plane, so it needs one for itself. All others are
//! told of namespaces and can be as many as there are tests, with flags of their own, on the one plane that tests share.
//! The modes have an account each there.

use super::install::{furnish, furnish_beside, permit};
use super::process::{self, Ended};
use super::{HOME, Mode, Operator, Stage, create_namespace, fresh_name, log};
use futures::future::join_all;
use lab::astro::Astro;
use lab::control_plane::{ControlPlane, apply};
use lab::manifests::shipped;
use std::sync::Mutex;
use tokio::sync::{MutexGuard, OnceCell};

/// The one that tests share: with everything of `deploy/`, and an account for each mode.
pub async fn plane() -> &'static ControlPlane {
    static READY: OnceCell<()> = OnceCell::const_new();
    log::watch();
    let plane = ControlPlane::shared().await.unwrap();
    let furnish = async || {
        for object in shipped("deploy", &[]).unwrap() {
            let applied = apply(&plane.client(), &object.to_string()).await;
            applied.unwrap();
        }
        for mode in [Mode::NAMESPACES, Mode::NAMESPACES_GET] {
            furnish_beside(plane, mode).await;
        }
    };
    READY.get_or_init(furnish).await;
    plane
}

/// A control plane that a test may stop and spoil, as long as it leaves it in order.
pub struct Spoilable {
    pub plane: ControlPlane,
    /// What the operator said before its CustomResourceDefinition was there.
    pub before: Ended,
}

/// The one of this kind, for one test at a time.
pub async fn spoilable() -> MutexGuard<'static, Spoilable> {
    static PLANE: OnceCell<tokio::sync::Mutex<Spoilable>> = OnceCell::const_new();
    log::watch();
    let plane = PLANE.get_or_init(async || {
        let plane = ControlPlane::start().await.unwrap();
        let admin = plane.kubeconfig();
        let environment = [("KUBECONFIG", admin.to_str().unwrap())];
        let before = process::run(&["run", "--listen=127.0.0.1:0"], &environment).await;
        furnish(&plane, Mode::CLUSTER).await;
        tokio::sync::Mutex::new(Spoilable { plane, before })
    });
    plane.await.lock().await
}

/// One operator for several tests, and a namespace for each.
pub struct Shared {
    mode: Mode,
    flags: &'static [&'static str],
    /// How many namespaces it is told of, where it is told of any.
    namespaces: usize,
    running: OnceCell<Running>,
}

struct Running {
    astro: Astro,
    plane: &'static ControlPlane,
    _operator: Operator,
    /// Those the operator was told of, and no test has taken yet.
    namespaces: Mutex<Vec<String>>,
}

impl Shared {
    /// One for a whole cluster, which is its own.
    pub const fn of_cluster(mode: Mode, flags: &'static [&'static str]) -> Self {
        assert!(!mode.namespaced);
        Self::new(mode, flags, 0)
    }

    /// One on the plane that all share, for so many tests.
    pub const fn of_namespaces(
        mode: Mode,
        flags: &'static [&'static str],
        namespaces: usize,
    ) -> Self {
        assert!(mode.namespaced);
        Self::new(mode, flags, namespaces)
    }

    const fn new(mode: Mode, flags: &'static [&'static str], namespaces: usize) -> Self {
        Self {
            mode,
            flags,
            namespaces,
            running: OnceCell::const_new(),
        }
    }

    /// A namespace of its own for a test, and the operator, which the first one starts.
    pub async fn stage(&'static self) -> Stage {
        let running = self.running.get_or_init(|| self.start()).await;
        if !self.mode.namespaced {
            return Stage::on(running.plane, &running.astro).await;
        }
        let namespace = running.namespaces.lock().unwrap().pop();
        let namespace = namespace.expect("more tests than namespaces");
        Stage::in_namespace(running.plane, &running.astro, namespace).await
    }

    async fn start(&'static self) -> Running {
        let astro = Astro::start().await.unwrap();
        let plane = match self.mode.namespaced {
            true => plane().await,
            false => {
                log::watch();
                let plane = ControlPlane::start().await.unwrap();
                furnish(&plane, self.mode).await;
                // Like the shared one it lives as long as this process.
                Box::leak(Box::new(plane))
            }
        };
        let namespaces: Vec<_> = (0..self.namespaces).map(|_| fresh_name()).collect();
        join_all(namespaces.iter().map(async |name| {
            create_namespace(plane, name).await;
            permit(plane, self.mode, name).await;
        }))
        .await;
        let scope = self.mode.flags(&namespaces);
        let flags = self.flags.iter().copied();
        let flags: Vec<_> = flags.chain(scope.iter().map(String::as_str)).collect();
        let name = match self.mode.namespaced {
            true => self.mode.account(),
            false => HOME,
        };
        let account = plane.service_account(HOME, name).await.unwrap();
        Running {
            _operator: Operator::start(account, &astro, &flags),
            astro,
            plane,
            namespaces: Mutex::new(namespaces),
        }
    }
}
