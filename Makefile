# `make` alone lists the targets. Most that need a VM are plain Vagrant calls.
.DEFAULT_GOAL := help
LOCKS := apps/backend/requirements.txt apps/frontend/requirements.txt

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- The VM --------------------------------------------------------------------------

.PHONY: up down destroy ssh status logs rollback backup restore db export import migrate-to-postgres trust doctor clean-cache box bundle
# -T: no terminal, which would change the line ends.
admin = vagrant ssh --command "sudo docker exec --interactive users-backend python -m users_backend.admin $(1)" -- -T
FORMAT = csv
FILE = data/users.$(FORMAT)
FILE_FORMAT = $(patsubst .%,%,$(suffix $(FILE)))
up: ## start the VM and both services (without VirtualBox: through QEMU, installed if need be)
	@python3 tools/up.py

down: ## stop the VM; `make up` starts it again
	vagrant halt

destroy: ## copy the database, then delete the VM; the data folder stays
	vagrant destroy --force

ssh: ## look inside the VM
	vagrant ssh

status: ## how the VM and the two services are
	vagrant status
	vagrant ssh --command "systemctl --no-pager --lines 0 status 'users-*'"

logs: ## follow the logs of both services (Ctrl-C ends it)
	vagrant ssh --command "sudo journalctl --follow --lines 50 --output short-iso --unit 'users-*'"

rollback: ## put one service back to the version before: make rollback SERVICE=backend
	@[ -n "$(SERVICE)" ] || { echo "Say which one: make rollback SERVICE=backend" >&2; exit 1; }
	vagrant ssh --command "sudo users-deploy $(SERVICE) back"

backup: ## copy the database while it is in use, into data/backups/ (the backend does so every hour, too)
	@$(call admin,backup)

restore: ## list the copies; put one back: make restore COPY=newest
	@$(call admin,$(if $(COPY),restore $(COPY),list))

db: ## ask the database in SQL while it is in use; nothing can be changed
	@vagrant ssh --command "sudo docker exec --interactive --tty users-backend python -m users_backend.admin db"

export: ## write all users to data/users.csv; with FORMAT=json or FILE=any.csv elsewhere
	@$(call admin,export $(FILE_FORMAT)) > "$(FILE).part" || { rm "$(FILE).part"; exit 1; }
	@mv "$(FILE).part" "$(FILE)"
	@echo "Written: $(FILE)"

import: ## save the users of a file: make import FILE=any.csv (or .json); ALL_OR_NOTHING=1 saves none if one is refused
	@$(call admin,import $(FILE_FORMAT) $(if $(ALL_OR_NOTHING),--all-or-nothing)) < "$(FILE)"

# 137: a restart of the backend has ended it, which is how it should end.
migrate-to-postgres: ## copy all users into the service `database`, prove it, and say how to use it from then on
	@$(call admin,migrate postgresql://users@database/users) || { [ $$? = 137 ] && \
	    echo "The backend has restarted. The page /status says how its database is."; }

ROOT_CERTIFICATE = https-root.crt
trust: ## with https: fetch the certificate of the VM's own authority, and say how browsers come to trust it
	@vagrant ssh --command "sudo cat /var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt" -- -T \
	    > "$(ROOT_CERTIFICATE).part" || { rm "$(ROOT_CERTIFICATE).part"; \
	    echo "There is no authority of its own in the VM, or no VM that runs. Set https.domain: localhost in" \
	        "settings.local.yml and run 'vagrant reload --provision' (docs/https.md)." >&2; exit 1; }
	@mv "$(ROOT_CERTIFICATE).part" "$(ROOT_CERTIFICATE)"
	@echo "Written: $(ROOT_CERTIFICATE). One command makes this computer's browsers trust it, another one no longer:"
	@echo "docs/https.md has both for Windows, macOS and Linux. Firefox has its own way, which stands there, too."

doctor: ## what is wrong with this machine or the VM, and what to do; paste it into a bug report
	@python3 tools/doctor.py

clean-cache: ## remove what is kept for the next VM, and Ubuntu's image for the next box
	@python3 tools/clean_cache.py

PROVIDER = virtualbox
box: ## build a box of your own, of Ubuntu or Debian: make box PROVIDER=virtualbox VERSION=1.0.0 URL=https://boxes.example.com
	@python3 tools/box.py "$(PROVIDER)" $(if $(SYSTEM),--system "$(SYSTEM)") $(if $(VERSION),--version "$(VERSION)") $(if $(URL),--url "$(URL)")

bundle: .venv/bundle ## write users-bundle.tar: all that `make up` needs on a computer without a network
	@.venv/bin/python tools/bundle.py

# --- Without a VM --------------------------------------------------------------------

.PHONY: local
local: .venv/apps ## run both apps on this machine, until Ctrl-C
	@.venv/bin/python tools/local.py

# --- Work on the project -------------------------------------------------------------

.PHONY: lint check container test torture offline beyond swarm cloud virtualbox tutorial bench starts scale docs lock
lint check container test torture offline beyond swarm cloud virtualbox tutorial bench starts scale docs lock: export PATH := $(CURDIR)/.venv/bin:$(PATH)

lint: .venv/dev ## read the code without running it
	ruff check
	ruff format --check
	mypy
	ansible-lint --offline -q --profile production

check: lint ## the checks and tests that need no VM and little time
	tests/install-tools
	pytest -n 3 --dist loadfile -m "not slow"

container: .venv/dev ## the playbook in containers that boot like the VM, in seconds: changes, faults, over SSH, https (6 minutes)
	tests/install-tools
	pytest tests/vm/test_container.py tests/vm/test_systems.py -k "not (debian-12 or own_ansible)"

test: check container ## both, the slow tests, Molecule and `make up` on a real VM: all but what has a target of its own below
	pytest -n 3 --dist loadfile -m slow
	pytest --capture no tests/vm/test_vm.py \
	    -k "not (tutorial or whatever_fails or own_disk or bundle or postgresql or https)"

ROUNDS = 25
torture: .venv/dev ## cut the VM's power and break all else under load; renew the table of docs/reliability.md (2 hours)
	tests/install-tools
	ROUNDS=$(ROUNDS) pytest --capture no tests/vm/test_vm.py -k whatever_fails

offline: .venv/dev ## test the VM's own disk, a bundle of the VM, and what `make up` makes of it without a network (half an hour)
	tests/install-tools
	pytest --capture no tests/vm/test_vm.py -k "own_disk or bundle"

beyond: .venv/dev ## test what few need: Debian 12, PostgreSQL as a service, the VM's https (half an hour)
	tests/install-tools
	pytest tests/vm/test_systems.py -k "debian-12 or own_ansible"
	pytest --capture no tests/vm/test_vm.py -k "postgresql or https"

swarm: .venv/dev ## test ansible/swarm.yml on three machines: updates and losses under load (45 minutes)
	pytest --capture no tests/vm/test_swarm.py

cloud: .venv/dev ## test cloud/user-data.yml on a machine that boots with it (15 minutes and more)
	pytest --capture no tests/vm/test_cloud.py

virtualbox: .venv/dev ## boot the disk of the box for VirtualBox under QEMU, and run the playbook on it (15 minutes and more)
	pytest --capture no tests/vm/test_virtualbox.py

tutorial: .venv/dev ## follow docs/add-a-service.md in a VM, word for word (half an hour)
	pytest --capture no tests/vm/test_vm.py -k tutorial

bench: .venv/dev ## compare the speed with a textbook app's and with what is possible, and the playbook with a script (10 minutes)
	tests/install-tools
	PYTHONPATH=apps/backend/src python bench/bench.py
	PYTHONPATH=tools:tests python bench/provisioning.py

starts: .venv/dev ## measure a first `make up`, one from the cache and one without a network (half an hour)
	PYTHONPATH=tools:tests python bench/starts.py

scale: .venv/dev ## measure one, two and four backends with PostgreSQL, and renew docs/scale.md: make scale ROWS=100000000 (6 minutes)
	tests/install-tools
	PYTHONPATH=apps/backend/src:apps/backend/tests python bench/scale.py $(if $(ROWS),--rows $(ROWS))

docs: .venv/dev ## renew docs/reference.md and the README of each role
	PYTHONPATH=apps/backend/src:apps/frontend/src python tools/reference.py

COMPILE = uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock: .venv/dev ## renew the locked requirements
	$(COMPILE) apps/backend/pyproject.toml --output-file apps/backend/requirements.txt
	$(COMPILE) apps/frontend/pyproject.toml --output-file apps/frontend/requirements.txt
	$(COMPILE) requirements-bundle.in $(LOCKS:%=--constraints %) --output-file requirements-bundle.txt
	$(COMPILE) requirements-dev.in $(LOCKS:%=--constraints %) --constraints requirements-bundle.txt --output-file requirements-dev.txt

# --- The Python environment ----------------------------------------------------------

# An upgrade of the system may have put another Python behind the link.
GONE := $(shell .venv/bin/python -c 'import pip' 2> /dev/null || echo gone)
.PHONY: gone

.venv/apps: $(LOCKS) tools/venv $(GONE)
	tools/venv $(LOCKS)
	@touch $@

.venv/bundle: requirements-bundle.txt tools/venv $(GONE)
	tools/venv requirements-bundle.txt
	@touch $@

.venv/dev: requirements-dev.txt requirements-bundle.txt $(LOCKS) tools/venv $(GONE)
	tools/venv $(LOCKS) requirements-dev.txt requirements-bundle.txt
	@touch $@ .venv/apps .venv/bundle
