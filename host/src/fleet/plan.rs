//! What a proposal needs in the database: roles and migrations of its apps, what of them is missing, and making it.

use super::DeployError;
use super::deploy::Administration;
use super::set::{self, Member};
use crate::store::fleet::Desk;
use crate::store::{AppPlan, HandlerRole, Migrator};

/// What an app needs in the database.
pub(super) struct Plan {
    pub(super) app: AppPlan,
    /// The roles of the handlers that are to run; the plan knows those of earlier ones too, since migrations may grant something to them.
    roles: Vec<String>,
}

/// The plans of the apps of `members`, where `all` are to run.
pub(super) async fn plans(installation: &str, desk: &Desk, all: &[Member], members: &[Member]) -> Result<Vec<Plan>, DeployError> {
    let plans = set::plans(installation, all, members).map_err(|error| DeployError::Refused(format!("{error:#}")))?;
    let mut complete = Vec::new();
    for mut app in plans {
        let roles = app.handlers.iter().map(|handler| handler.role.clone()).collect();
        for handler in desk.handlers_of(&app.app).await? {
            if !app.handlers.iter().any(|known| known.handler == handler)
                && let Ok(role) = crate::manifest::role(installation, &handler)
            {
                app.handlers.push(HandlerRole { handler, role });
            }
        }
        complete.push(Plan { app, roles });
    }
    Ok(complete)
}

/// What the database lacks of these plans, each in words.
pub(super) async fn pending(desk: &Desk, plans: &[Plan]) -> Result<Vec<String>, DeployError> {
    let mut lacks = Vec::new();
    for Plan { app: AppPlan { app, migrations, .. }, roles } in plans {
        let applied = desk.applied(app).await?;
        for migration in migrations {
            let file = format!("{:04}_{}.sql", migration.number, migration.name);
            match applied.iter().find(|(number, _)| *number == migration.number) {
                None => lacks.push(format!("migration {file} of app `{app}`")),
                Some((_, checksum)) if *checksum != migration.checksum => {
                    return Err(DeployError::Refused(format!(
                        "migration {file} of app `{app}` was changed after it was applied; put its old text back and add a new one with a \
                         higher number"
                    )));
                }
                Some(_) => {}
            }
        }
        let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
        lacks.extend(desk.missing_roles(&roles).await?.into_iter().map(|role| format!("role `{role}`")));
    }
    Ok(lacks)
}

/// Says what the rules refuse before any replica is asked.
pub(super) async fn check(admin: &Administration, plans: &[Plan]) -> Result<(), DeployError> {
    let apps: Vec<AppPlan> = plans.iter().map(|plan| plan.app.clone()).collect();
    let check = async {
        let migrator = Migrator::connect(&admin.admin_url).await?.with(admin.options.clone());
        migrator.check(&apps).await
    };
    check.await.map(drop).map_err(|error: anyhow::Error| DeployError::Refused(format!("{error:#}; nothing was switched")))
}

/// Makes what is missing, and says what that was.
pub(super) async fn migrate(admin: &Administration, plans: &[Plan]) -> Result<Vec<String>, DeployError> {
    let apps: Vec<AppPlan> = plans.iter().map(|plan| plan.app.clone()).collect();
    let run = async {
        let mut migrator = Migrator::connect(&admin.admin_url).await?.with(admin.options.clone());
        migrator.run(&admin.runtime_url, &apps).await
    };
    run.await.map_err(|error: anyhow::Error| DeployError::Refused(format!("{error:#}; nothing was switched")))
}
