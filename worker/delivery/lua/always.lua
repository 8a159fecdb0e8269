-- When Redis is full it refuses writes that may need memory, unless the script has written before (scriptCall in its
-- script.c). Handing messages around needs none, and storing outcomes is what makes room again. Scripts that bring
-- new work do not begin with this: they have to wait.
redis.call('DEL', 'kc:nothing')

