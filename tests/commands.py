"""Where each command of the documents runs in a test, or why it cannot. A new command belongs into one of these."""

# Documents that a test follows from their first command to the last.
FOLLOWED = {
    "docs/add-a-service.md": "tests/vm/test_vm.py",
    "docs/first-change.md": "tests/test_tutorial.py",
    "docs/pt-BR/first-change.md": "tests/test_docs.py",  # its blocks are those of the English one
}

# tests/test_commands.py: with both apps on this machine.
HERE = [
    "curl 127.0.0.1:8080/users",
    "curl 127.0.0.1:8000/healthz",
    "curl -F id=2 -F name=Bia 127.0.0.1:8000/",
    "curl -s -o /dev/null -D - 127.0.0.1:8000/",
    "PYTHONPATH=apps/backend/src DATABASE_URL=sqlite:///data/users.db .venv/bin/python -m users_backend.admin list",
    ".venv/bin/pytest apps/backend/tests/test_api.py -k limit",
]

# tests/vm/test_vm.py: with the VM of `make up`, in this order.
ADMIN = "sudo docker exec -i users-backend python -m users_backend.admin"
IN_THE_VM = [
    "vagrant status",
    "vagrant box list",
    'vagrant ssh --command "systemctl status --no-pager users-backend"',
    """vagrant ssh --command "systemctl status --no-pager 'users-*'\"""",
    """vagrant ssh --command "sudo journalctl --no-pager --unit 'users-*' --lines 50\"""",
    """vagrant ssh --command "sudo journalctl --no-pager --unit 'users-*' --output cat --grep THAT_NUMBER\"""",
    f'vagrant ssh --command "{ADMIN} backup"',
    f'vagrant ssh --command "{ADMIN} list"',
    f'vagrant ssh --command "{ADMIN} restore newest"',
    f'vagrant ssh --command "{ADMIN} export csv | sudo tee /data/users.csv > /dev/null"',
    f'vagrant ssh --command "{ADMIN} import csv < /data/users.csv"',
]

# What another test runs, perhaps with a port or folder of its own: that test, and how it says it.
ELSEWHERE = {
    "vagrant reload --provision": ("docs/add-a-service.md", "vagrant reload --provision"),  # which test_vm.py follows
    "vagrant provision": ("tests/vm/test_vm.py", '"vagrant", "provision", "--provision-with", "site"'),
    "vagrant destroy": ("tests/vm/test_vm.py", '"vagrant", "destroy", "--force"'),
    "make box PROVIDER=virtualbox VERSION=1.0.0 URL=https://boxes.example.com": (
        "tests/vm/test_virtualbox.py",
        'box.make("virtualbox", "1.0.0", system="ubuntu")',
    ),
    "vagrant box outdated": ("tests/test_box.py", '"box", "outdated"'),
    "vagrant box update": ("tests/test_box.py", '"box", "update"'),
    "make migrate-to-postgres": ("tests/vm/test_vm.py", '"make", "migrate-to-postgres"'),
    "make bundle": ("tests/vm/test_vm.py", '"make", "bundle"'),
    "tar -xf users-bundle.tar": ("tests/test_bundle.py", '"tar", "-xf", made / "project/users-bundle.tar"'),
    "cd users-bundle": ("tests/vm/test_vm.py", 'WORK / "users-bundle"'),
    "make up": ("tests/vm/test_vm.py", '"make", "up"'),
    "make clean-cache": ("tests/test_doctor.py", '"clean_cache.py"'),
    "make backup": ("tests/vm/test_vm.py", '"make", "backup"'),
    "make restore": ("tests/vm/test_vm.py", '"make", "restore"'),
    "make restore COPY=newest": ("tests/vm/test_vm.py", '"make", "restore", "COPY=newest"'),
    "make export": ("tests/vm/test_vm.py", '"make", "export", f"FILE='),
    "make import FILE=data/users.csv": ("tests/vm/test_vm.py", '"make", "import", f"FILE='),
    "htpasswd -nB ana >> https-users": ("tests/test_https.py", '"htpasswd", "-niB", "ana"'),
    "ansible-vault encrypt https-users": ("tests/test_https.py", '"ansible-vault", "encrypt"'),
    "make trust": ("tests/test_https.py", '"make", "trust"'),
    "make scale ROWS=100000000": ("tests/test_bench.py", '"bench/scale.py"'),
    "docker compose up": ("tests/vm/test_container.py", "docker compose"),
    "FRONTEND_PORT=8001 make local": ("tests/test_local.py", '"tools/local.py"'),
    "git config core.hooksPath .githooks": ("tests/test_repository.py", '"core.hooksPath", ".githooks"'),
    ".venv/bin/pytest apps/frontend": ("Makefile", 'pytest -n 3 --dist loadfile -m "not slow"'),
    "ansible-playbook -i hosts.yml ansible/site.yml": ("tests/vm/test_systems.py", '"hosts.yml", "ansible/site.yml"'),
}
SWARM = ("tests/vm/test_swarm.py", 'commands(ROOT / "docs/swarm.md")')
ELSEWHERE |= {
    "ansible-playbook -i hosts.yml ansible/swarm.yml": ("tests/vm/test_swarm.py", '"ansible/swarm.yml"'),
    "sudo docker node ls": SWARM,
    "sudo docker service ls": SWARM,
    "sudo docker service ps users_backend": SWARM,
    "sudo docker service logs --follow users_backend": SWARM,
    'sudo docker exec "$(sudo docker ps -qf name=users_backend | head -n 1)" sh -c \'PGPASSWORD=$(cat /run/secrets/PGPASSWORD)'
    " python -m users_backend.admin backup'": SWARM,
}
GUIDE = ("tests/vm/test_systems.py", 'guide.replace("ssh ubuntu@203.0.113.10"')  # runs the blocks of this part
ELSEWHERE |= {
    "ssh ubuntu@203.0.113.10 sudo docker exec users-backend python -m users_backend.admin backup": GUIDE,
    "ssh ubuntu@203.0.113.10 sudo tar -C /data -c backups | tar -x": GUIDE,
    "copy=users-20261124T130000Z-250.db.gz": GUIDE,
    'ssh ubuntu@203.0.113.10 "sudo install -d -o 1000 -g 1000 /data/backups && sudo tee /data/backups/$copy > /dev/null"'
    " < backups/$copy": GUIDE,
    "ssh ubuntu@203.0.113.10 sudo docker exec users-backend python -m users_backend.admin restore $copy": GUIDE,
}

PROXY = "No proxy has this name; tests/vm/test_vm.py has one of its own."
BOX = "No box can be downloaded here, so Vagrant has none of this name."
VIRTUALBOX = "There is no VirtualBox here: this is for a person who has one."
CANNOT = {
    'vagrant ssh --command "sudo systemctl stop users-database && sudo mv /var/lib/users-database'
    ' /var/lib/users-database.old"': "There is only one version of PostgreSQL here.",
    'sqlite3 -readonly data/users.db "select * from users"': "sqlite3 is not installed; Python reads the file in tests.",
    "export http_proxy=http://proxy.example.com:3128 https_proxy=http://proxy.example.com:3128": PROXY,
    "export no_proxy=localhost,127.0.0.1": PROXY,
    "vagrant box repackage bento/ubuntu-24.04 virtualbox 202510.26.0": BOX,
    "vagrant box remove bento/ubuntu-24.04": BOX,
    "vagrant --version": VIRTUALBOX,
    "vagrant up --provider virtualbox > up.log 2>&1": VIRTUALBOX,
    "ssh -N -L 8000:127.0.0.1:8000 -L 8080:127.0.0.1:8080 ubuntu@203.0.113.10": "There is no machine at this address.",
}
