"""The sentences of the pages in Brazilian Portuguese, by their English text.

`{places}` stay as they are. Tests compare these lists with the sentences that code and
templates mark with `_("…")` and with those of the backend: none may be missing, none left over.
"""

PORTUGUESE = {
    # Every page
    "Users": "Usuários",
    "Status": "Situação",
    "Pages": "Páginas",
    "Skip to the content": "Ir para o conteúdo",
    "Go to the form": "Ir para o formulário",
    "Request number in the logs: {id}": "Número da requisição nos logs: {id}",
    # The form
    "Create and list": "Criar e listar",
    "New user": "Novo usuário",
    "User ID": "ID do usuário",
    "User name": "Nome do usuário",
    "A whole number, such as 7": "Um número inteiro, como 7",
    "1 to 200 characters": "De 1 a 200 caracteres",
    "Create user": "Criar usuário",
    "User {id}, {name}, was created.": "O usuário {id}, {name}, foi criado.",
    "Not created": "Não criado",
    "Please correct what is marked below.": "Corrija o que está marcado abaixo.",
    "The ID must be a whole number from 1 to 9007199254740991, such as 7.": (
        "O ID deve ser um número inteiro de 1 a 9007199254740991, como 7."
    ),
    "User {id} exists already: choose another ID.": "O usuário {id} já existe: escolha outro ID.",
    "Type a name.": "Digite um nome.",
    "The name has {length} characters; {most} is the most there can be.": (
        "O nome tem {length} caracteres; o máximo é {most}."
    ),
    "The name has a character that cannot be shown, such as a line break or a tab: remove it.": (
        "O nome tem um caractere que não pode ser exibido, como uma quebra de linha ou uma tabulação: remova-o."
    ),
    "The backend does not accept this user.": "O backend não aceita este usuário.",
    # The list
    "All users": "Todos os usuários",
    "ID": "ID",
    "Name": "Nome",
    "Edit": "Editar",
    "Delete": "Excluir",
    "Search by name": "Buscar por nome",
    "Search": "Buscar",
    "First page": "Primeira página",
    "Next page": "Próxima página",
    "No users yet. Create the first one above.": "Ainda não há usuários. Crie o primeiro acima.",
    "No user has “{search}” in the name.": "Nenhum usuário tem “{search}” no nome.",
    "No more users.": "Não há mais usuários.",
    "The list is not loaded, because the backend has a problem.": (
        "A lista não foi carregada, porque o backend está com um problema."
    ),
    "Load the list": "Carregar a lista",
    # Edit and delete
    "Edit user {id}": "Editar o usuário {id}",
    "Save": "Salvar",
    "Cancel": "Cancelar",
    "Not saved": "Não salvo",
    "User {id} is now called {name}.": "O usuário {id} agora se chama {name}.",
    "Delete user {id}?": "Excluir o usuário {id}?",
    "{name} will be deleted for good.": "O usuário {name} será excluído para sempre.",
    "Delete user": "Excluir usuário",
    "Not deleted": "Não excluído",
    "User {id} was deleted.": "O usuário {id} foi excluído.",
    "There is no user {id}. Look at the list for those there are.": (
        "O usuário {id} não existe. Veja na lista os que existem."
    ),
    "Somebody was faster: this user is now called {name}. Your change was not made; send it once more if you still want it.": (
        "Alguém foi mais rápido: este usuário agora se chama {name}. Sua alteração não foi feita; envie-a de novo se ainda a "
        "quiser."
    ),
    # What became of a change
    "Nothing was changed.": "Nada foi alterado.",
    "The change may or may not have been made: look at the list before you try again.": (
        "A alteração pode ter sido feita ou não: veja a lista antes de tentar de novo."
    ),
    # The backend has a problem
    "See what to do": "Veja o que fazer",
    "The backend does not answer at {url}.": "O backend não responde em {url}.",
    "The backend does not answer at the moment.": "O backend não responde no momento.",
    "The backend did not answer within {seconds} seconds.": "O backend não respondeu em {seconds} segundos.",
    "The connection to the backend broke before its answer came.": (
        "A conexão com o backend caiu antes de a resposta chegar."
    ),
    "The backend cannot do its work at the moment.": "O backend não consegue trabalhar no momento.",
    "The disk of the database is full: free some space, and try again.": (
        "O disco do banco de dados está cheio: libere espaço e tente de novo."
    ),
    "The connection to the database broke while the change was being saved.": (
        "A conexão com o banco de dados caiu enquanto a alteração era salva."
    ),
    "The backend failed with status {status}.": "O backend falhou com o status {status}.",
    "What answers as the backend does not speak like it (status {status}): check BACKEND_URL.": (
        "O que responde no endereço do backend não é o backend (status {status}): verifique BACKEND_URL."
    ),
    # The status page
    "Frontend": "Frontend",
    "Backend": "Backend",
    "Database": "Banco de dados",
    "works": "funciona",
    "has a problem": "está com um problema",
    "unknown": "situação desconhecida",
    "It made this page.": "Foi ele que fez esta página.",
    "It answers.": "Ele responde.",
    "The backend can use it.": "O backend consegue usá-lo.",
    "Only the backend could tell.": "Só o backend poderia dizer.",
    "In its own words:": "Nas palavras dele:",
    "See whether it runs, and why it ended:": "Veja se ele está em execução e por que parou:",
    "Start it again:": "Inicie-o de novo:",
    "Without a VM, the terminal in which make local runs says more.": (
        "Sem a VM, o terminal em que o make local está em execução mostra mais."
    ),
    "Check the disk, the folder data/ and other programs that have users.db open. The log says more:": (
        "Verifique o disco, a pasta data/ e outros programas que estejam com users.db aberto. O log mostra mais:"
    ),
    "Open data/users.db only to read while the VM runs: locks do not cross the shared folder, so a program that "
    "writes to it and the backend overwrite each other's users. data/README.txt says more.": (
        "Com a VM ligada, abra data/users.db só para ler: os bloqueios não atravessam a pasta compartilhada, e um "
        "programa que escreve nele e o backend gravam por cima dos usuários um do outro. data/README.txt explica."
    ),
    "Check again": "Verificar de novo",
    # Error pages
    "That did not work": "Não deu certo",
    "Status {status}.": "Status {status}.",
    "Another web site sent this form: nothing was changed. Open this page yourself and fill in the form.": (
        "Outro site enviou este formulário: nada foi alterado. Abra você mesmo esta página e preencha o formulário."
    ),
    "There is nothing at this address. Check it, or go to the form.": (
        "Não há nada neste endereço. Confira-o ou vá para o formulário."
    ),
    "This address does not take that kind of request. Go to the form.": (
        "Este endereço não aceita esse tipo de requisição. Vá para o formulário."
    ),
    "What was sent is too long, and nothing was changed. A name has at most 200 characters.": (
        "O que foi enviado é longo demais, e nada foi alterado. Um nome tem no máximo 200 caracteres."
    ),
    "What was sent is not written in UTF-8, and nothing was changed. Open this page and fill in the form.": (
        "O que foi enviado não está escrito em UTF-8, e nada foi alterado. Abra esta página e preencha o formulário."
    ),
    "This server has another name. Use localhost or its IP address, or add the name to ALLOWED_HOSTS.": (
        "Este servidor tem outro nome. Use localhost ou o endereço IP, ou acrescente o nome a ALLOWED_HOSTS."
    ),
    "It is an error in the program, not your fault. Look for the request number below in its log.": (
        "É um erro do programa, não seu. Procure no log dele o número da requisição abaixo."
    ),
    "This request cannot be answered. Go to the form, and try again.": (
        "Esta requisição não pode ser respondida. Vá para o formulário e tente de novo."
    ),
}

# Why the backend cannot use its database, by its own words: "{}" stands for a value, in the same order.
BACKEND = {
    "Too many requests are waiting. Try again in a second.": (
        "Há requisições demais à espera. Tente de novo em um segundo."
    ),
    "This server is not called {}. Use localhost or an IP address, or add the name to the setting ALLOWED_HOSTS.": (
        "Este servidor não se chama {}. Use localhost ou um endereço IP, ou acrescente o nome à configuração ALLOWED_HOSTS."
    ),
    "The folder of the database {} does not exist. "
    "Create or mount it, or set DATABASE_URL to a file in another folder.": (
        "A pasta do banco de dados {} não existe. "
        "Crie-a ou monte-a, ou aponte DATABASE_URL para um arquivo em outra pasta."
    ),
    "The database {} is read-only. Let user id {} write to it.": (
        "O banco de dados {} é somente leitura. Dê ao usuário de id {} o direito de escrever nele."
    ),
    "The folder of the database {} is not writable. Let user id {} write there.": (
        "Não é possível escrever na pasta do banco de dados {}. Dê ao usuário de id {} o direito de escrever nela."
    ),
    "The database {} has schema version {}; this backend knows up to {}. "
    "Run a newer backend, or set DATABASE_URL to another file.": (
        "O banco de dados {} tem a versão de esquema {}; este backend conhece até a {}. "
        "Use um backend mais novo ou aponte DATABASE_URL para outro arquivo."
    ),
    "The database {} belongs to another program. Set DATABASE_URL to another file.": (
        "O banco de dados {} pertence a outro programa. Aponte DATABASE_URL para outro arquivo."
    ),
    "The database {} keeps {} at {} instead of {}. Close other programs that have it open.": (
        "O banco de dados {} mantém {} em {} em vez de {}. Feche outros programas que o tenham aberto."
    ),
    "Another backend process uses the database {}. Stop that one, or set DATABASE_URL to another file.": (
        "Outro processo do backend usa o banco de dados {}. Pare-o ou aponte DATABASE_URL para outro arquivo."
    ),
    "The disk of the database {} is full. Nothing was saved. Free some space and try again.": (
        "O disco do banco de dados {} está cheio. Nada foi salvo. Libere espaço e tente de novo."
    ),
    "The file {} is not a SQLite database. `make restore` lists the copies that can take its place; "
    "or move it away, or set DATABASE_URL to another file.": (
        "O arquivo {} não é um banco de dados SQLite. `make restore` lista as cópias que podem ficar no lugar dele; "
        "ou mova-o para outro lugar, ou aponte DATABASE_URL para outro arquivo."
    ),
    "Another program holds the database {}. Nothing was saved. Close that program and try again.": (
        "Outro programa mantém o banco de dados {} bloqueado. Nada foi salvo. Feche esse programa e tente de novo."
    ),
    "The database {} cannot be used ({}). Nothing was saved. "
    "Check the disk and the permissions of the file, then try again.": (
        "O banco de dados {} não pode ser usado ({}). Nada foi salvo. "
        "Verifique o disco e as permissões do arquivo e tente de novo."
    ),
    "The database {} was removed or emptied while the backend ran, which begins no other in its place. "
    "Put it back, or a copy with `make restore COPY=newest`; or restart the backend to begin without users.": (
        "O banco de dados {} foi removido ou esvaziado com o backend em execução, e ele não começa outro no lugar. "
        "Ponha-o de volta, ou uma cópia com `make restore COPY=newest`; ou reinicie o backend para começar sem usuários."
    ),
    "The database {} was removed or replaced at this very moment. Nothing was saved in its place. Try again.": (
        "O banco de dados {} foi removido ou trocado neste exato momento. Nada foi salvo no lugar dele. Tente de novo."
    ),
    "The database {} went out of reach while the change was being saved ({}), so it is not known whether it was saved. "
    "Read the user, or send the change again.": (
        "O banco de dados {} ficou fora de alcance enquanto a alteração era salva ({}), e não se sabe se ela foi salva. "
        "Leia o usuário, ou envie a alteração de novo."
    ),
    "The database {} was removed or replaced while it was in use, and what it held cannot be kept as a copy yet ({}). "
    "Make the folder {} writable, with space for it; the backend then goes on by itself.": (
        "O banco de dados {} foi removido ou trocado durante o uso, e ainda não se pode guardar uma cópia do que ele "
        "tinha ({}). Permita escrever na pasta {} e deixe espaço nela; o backend então continua sozinho."
    ),
    "The database {} is damaged ({}). It is left as it is. `make restore` lists the copies that can take its place.": (
        "O banco de dados {} está danificado ({}). Ele fica como está. "
        "`make restore` lista as cópias que podem ocupar o lugar dele."
    ),
    # Those of PostgreSQL.
    "The server of the database {} is PostgreSQL {}; 15 or a newer one is needed. Set DATABASE_URL to such a server.": (
        "O servidor do banco de dados {} é o PostgreSQL {}; é preciso o 15 ou um mais novo. "
        "Aponte DATABASE_URL para um servidor assim."
    ),
    "The database {} is encoded in {}, which has not every letter. "
    "Make one with `createdb --encoding=UTF8 --template=template0`.": (
        "O banco de dados {} está codificado em {}, que não tem todas as letras. "
        "Crie um com `createdb --encoding=UTF8 --template=template0`."
    ),
    "The server of the database {} runs with fsync = {}, so that a power cut could take users with it. "
    "Set fsync = on in its postgresql.conf and reload it.": (
        "O servidor do banco de dados {} está com fsync = {}, e uma queda de energia poderia levar usuários embora. "
        "Ponha fsync = on no postgresql.conf dele e recarregue-o."
    ),
    "The database {} is read-only. Nothing was saved. "
    "Set DATABASE_URL to the primary server, or default_transaction_read_only to off.": (
        "O banco de dados {} é somente leitura. Nada foi salvo. "
        "Aponte DATABASE_URL para o servidor primário, ou ponha default_transaction_read_only em off."
    ),
    "The database {} belongs to another program. Set DATABASE_URL to another one.": (
        "O banco de dados {} pertence a outro programa. Aponte DATABASE_URL para outro banco de dados."
    ),
    "The database {} has schema version {}; this backend knows up to {}. "
    "Run a newer backend, or set DATABASE_URL to another database.": (
        "O banco de dados {} tem a versão de esquema {}; este backend conhece até a {}. "
        "Use um backend mais novo ou aponte DATABASE_URL para outro banco de dados."
    ),
    "The server of the database {} does not let this user in ({}). "
    "Correct the user in DATABASE_URL, and the password there or in PGPASSWORD.": (
        "O servidor do banco de dados {} não deixa este usuário entrar ({}). "
        "Corrija o usuário em DATABASE_URL, e a senha ali ou em PGPASSWORD."
    ),
    "The database {} does not exist on its server. Create it with createdb, "
    "or correct the name at the end of DATABASE_URL.": (
        "O banco de dados {} não existe no servidor. Crie-o com createdb ou corrija o nome no fim de DATABASE_URL."
    ),
    "The server of the database {} has too many connections. Nothing was saved. "
    "Close some, or raise max_connections in its postgresql.conf.": (
        "O servidor do banco de dados {} tem conexões demais. Nada foi salvo. "
        "Feche algumas ou aumente max_connections no postgresql.conf dele."
    ),
    "The server of the database {} cannot be reached ({}). Nothing was saved. "
    "Start it, or correct host and port in DATABASE_URL.": (
        "Não é possível alcançar o servidor do banco de dados {} ({}). Nada foi salvo. "
        "Inicie-o ou corrija o host e a porta em DATABASE_URL."
    ),
    "The disk of the server of the database {} is full. Nothing was saved. Free some space there and try again.": (
        "O disco do servidor do banco de dados {} está cheio. Nada foi salvo. Libere espaço nele e tente de novo."
    ),
    "The server of the database {} did not finish within {} seconds. Nothing was saved. "
    "Try again; if that does not help, see what the server is busy with.": (
        "O servidor do banco de dados {} não terminou em {} segundos. Nada foi salvo. "
        "Tente de novo; se não ajudar, veja com que o servidor está ocupado."
    ),
    "Another program holds users in the database {}. Nothing was saved. Let it end its transaction and try again.": (
        "Outro programa mantém usuários bloqueados no banco de dados {}. Nada foi salvo. "
        "Deixe-o terminar a transação e tente de novo."
    ),
    "The user of the database {} lacks a permission ({}). Nothing was saved. "
    "Make this user the owner: ALTER DATABASE … OWNER TO …": (
        "Falta uma permissão ao usuário do banco de dados {} ({}). Nada foi salvo. "
        "Torne-o o dono: ALTER DATABASE … OWNER TO …"
    ),
    "The database {} cannot be used ({}). Nothing was saved. Look into the log of the PostgreSQL server, "
    "then try again.": (
        "O banco de dados {} não pode ser usado ({}). Nada foi salvo. "
        "Olhe o log do servidor PostgreSQL e tente de novo."
    ),
    "The connection to the database {} broke while the change was being saved, so it is not known whether it was "
    "saved. Read the user, or send the change again.": (
        "A conexão com o banco de dados {} caiu enquanto a alteração era salva, e não se sabe se ela foi salva. "
        "Leia o usuário ou envie a alteração de novo."
    ),
}
